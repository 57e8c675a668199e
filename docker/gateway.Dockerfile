# The gateway alone: no model, no torch, and no configuration, which is mounted.
#
#   docker build --file docker/gateway.Dockerfile --tag headgate-gateway .
#   docker run -p 8080:8080 -v $PWD/my.yaml:/etc/headgate/headgate.yaml:ro headgate-gateway

FROM python:3.11-slim AS build
RUN python -m venv /opt/headgate
ENV PATH=/opt/headgate/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# Dependencies before sources: this layer is built anew only when one of them changes.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['otel'], sep='\n')" >requirements.txt \
 && pip install --constraint constraints.txt --requirement requirements.txt
# What compiles the hot path stays in this stage. `auto` goes on without it where it cannot be had;
# `headgate version` says what came of it, and --build-arg HEADGATE_COMPILE=1 makes a must of it.
ARG HEADGATE_COMPILE=auto
RUN [ "$HEADGATE_COMPILE" = 0 ] \
 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev; } \
 || [ "$HEADGATE_COMPILE" = auto ]
COPY setup.py README.md LICENSE ./
COPY licenses licenses
COPY gateway gateway
RUN HEADGATE_COMPILE=$HEADGATE_COMPILE PIP_CONSTRAINT=/src/constraints.txt pip install --no-deps .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/headgate --create-home --shell /usr/sbin/nologin headgate
COPY --from=build /opt/headgate /opt/headgate
ENV PATH=/opt/headgate/bin:$PATH PYTHONUNBUFFERED=1 HEADGATE_STATE_DIR=/var/lib/headgate/state
USER headgate
WORKDIR /var/lib/headgate
# The state (weights edited while running, the admin token) outlives the container.
RUN mkdir --mode=0700 state
VOLUME /var/lib/headgate/state
EXPOSE 8080 8081
HEALTHCHECK --interval=3s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/-/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["headgate"]
CMD ["gateway", "/etc/headgate/headgate.yaml"]
