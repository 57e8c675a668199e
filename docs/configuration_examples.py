"""What does each part of a configuration file look like? An example of each; a test reads them all.

Each is a part of one file: together with the others, and with `REST`, it is one that can be.
"""

REST = """
backends:
  digits-linear: {instances: ["http://10.0.0.1:8001"]}
  digits-cnn: {instances: ["http://10.0.0.1:8002"]}
routes:
  digits: {match: /digits, split: {digits-linear: 1}}
"""

EXAMPLES = {
    "gateway": """
gateway:
  listen: 0.0.0.0:8080
  admin: 127.0.0.1:8081
  workers: 4
  access_log: /var/log/headgate/access.log
""",
    "routes": """
routes:
  digits:
    match: /digits
    rewrite: /predict               # the path by which the instances know their model
    split: {digits-linear: 90, digits-cnn: 10}
    on_unavailable: {fallback: digits-linear}
    max_body: 1MiB
    deadline: 30s
""",
    "match": """
routes:
  chat-small:
    match:
      exact: /v1/chat/completions
      hosts: ["*.example.com"]
      methods: [POST]
      headers: {X-Tenant: acme}
      json: {model: small}
    split: {digits-linear: 1}
""",
    "sticky": """
routes:
  digits:
    match: /digits
    split: {digits-linear: 90, digits-cnn: 10}
    sticky: {header: X-User-Id}     # or {cookie: session}
""",
    "retries": """
routes:
  digits:
    match: /digits
    split: {digits-linear: 1}
    retries: {attempts: 3, on: [connect_failure, reset, "503"], retry_safe: true}
""",
    "mirror": """
routes:
  digits:
    match: /digits
    split: {digits-linear: 1}
    mirror: {backend: digits-cnn, percent: 5}
""",
    "compare": """
routes:
  digits:
    match: /digits
    split: {digits-linear: 1}
    mirror:
      backend: digits-cnn
      percent: 5
      compare:
        fields: {/digit: exact, /probabilities: {close: {rtol: 0.01, atol: 0.001}}, /model: ignore}
        samples: 20
""",
    "cors": """
routes:
  digits:
    match: /digits
    split: {digits-linear: 1}
    cors: {origins: ["https://app.example.com", "https://*.example.org"], max_age: 10m}
""",
    "headers": """
routes:
  digits:
    match: /digits
    split: {digits-linear: 1}
    headers:
      request: {set: {X-Tenant: acme}}
      response: {remove: [Server]}
""",
    "rules": """
routes:
  digits:
    match: /digits
    split: {digits-linear: 1}
    headers:
      response:
        set: {Cache-Control: no-store}
        add: {X-Served-By: headgate}
        remove: [Server]
""",
    "compress": """
routes:
  digits:
    match: /digits
    split: {digits-linear: 1}
    compress: {min: 4KiB, events: true}     # or true
""",
    "keys": """
keys:
  acme:
    hashes: ["sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"]
    routes: [digits]
    expires: 2038-01-01T00:00:00Z
""",
    "limits": """
default_limits: {requests: 60/m, burst: 20}
routes:
  digits:
    match: /digits
    split: {digits-linear: 1}
    limits: {requests: 500/s, in_flight: 64}
""",
    "backends": """
backends:
  digits-cnn:
    instances: [http://10.0.0.1:8002, dns+http://digits-cnn:8000]
    states: {"10.0.0.1:8002": draining}
    balance: least_loaded           # or round_robin, random
    max_in_flight: 64
    limit: learned                  # or fixed
""",
    "tls": """
backends:
  digits-cnn:
    instances: [https://models.internal:8443]
    tls: {ca: /etc/headgate/internal-ca.pem}
""",
    "serve": """
backends:
  digits-next:
    serve:
      model: models.py:Cnn
      args: {weights: v2.pt}
      env: {HF_TOKEN: {env: HF_TOKEN}, OMP_NUM_THREADS: "1"}
      devices: [cpu]
      replicas: 2
      max_batch_size: 32
      batch_timeout: 5ms
""",
    "scale": """
backends:
  digits-next:
    serve:
      model: models.py:Cnn
      scale: {min: 1, max: 4, wait: 50ms}
""",
    "queue": """
backends:
  digits-cnn:
    instances: [http://10.0.0.1:8002]
    queue: {size: 128, timeout: 2s}
""",
    "health": """
backends:
  digits-cnn:
    instances: [http://10.0.0.1:8002]
    health: {path: /health/ready, interval: 1s, timeout: 1s, rise: 2, fall: 3}
""",
    "eject": """
backends:
  digits-cnn:
    instances: [http://10.0.0.1:8002]
    eject: {failures: 5, base: 5s, max: 60s}
""",
    "timeouts": """
backends:
  digits-cnn:
    instances: [http://10.0.0.1:8002]
    timeouts: {connect: 2s, response: 10m, idle: 60s}   # a model that computes for minutes
""",
}


def example_of(part: str) -> str:
    """The example of a part as the page shows it; "" if there is none."""
    text = EXAMPLES.get(part, "")
    return f"\n```yaml\n{text.strip()}\n```" if text else ""
