# One instance: the model server with torch, and the example models.
#
#   docker build --file docker/instance.Dockerfile --tag headgate-instance .
#   docker run -p 8000:8000 headgate-instance examples.digits.models:Cnn
#
# torch comes as the CPU build; for GPUs build with --build-arg TORCH_INDEX=https://pypi.org/simple

FROM python:3.11-slim AS build
RUN python -m venv /opt/headgate
ENV PATH=/opt/headgate/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# torch first and alone: it is most of the image and changes least.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-deps --retries 2 --extra-index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['instance'], *p['optional-dependencies']['otel'], sep='\n')" >requirements.txt \
 && pip install --constraint constraints.txt --requirement requirements.txt
# As in gateway.Dockerfile.
ARG HEADGATE_COMPILE=auto
RUN [ "$HEADGATE_COMPILE" = 0 ] \
 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev; } \
 || [ "$HEADGATE_COMPILE" = auto ]
COPY setup.py README.md LICENSE ./
COPY licenses licenses
COPY gateway gateway
COPY instance instance
RUN HEADGATE_COMPILE=$HEADGATE_COMPILE PIP_CONSTRAINT=/src/constraints.txt pip install --no-deps .
# A server needs neither what extensions of torch are built with nor what tests it, nor pip.
RUN cd /opt/headgate/lib/python3.11/site-packages \
 && rm -rf torch/include torch/share torch/test torch/lib/*.a torch/lib/lib*test*.so \
    pip pip-*.dist-info numpy/*/tests networkx/*/tests networkx/*/*/tests sympy/*/tests \
    sympy/*/*/tests

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /srv/models --create-home --shell /usr/sbin/nologin headgate
COPY --from=build /opt/headgate /opt/headgate
ENV PATH=/opt/headgate/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /srv/models
# A model of your own: mount or copy its folder here and name it as the command.
COPY examples examples
USER headgate
EXPOSE 8000
HEALTHCHECK --interval=3s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["headgate", "instance", "--host", "0.0.0.0", "--port", "8000"]
CMD ["examples.digits.models:Linear"]
