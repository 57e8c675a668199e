# Prometheus as Debian ships it, with the configuration beside this file.
#
#   docker compose --profile observability up --build --wait

# Debian, and the base that the other images have already brought.
FROM python:3.11-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends prometheus \
 && rm -rf /var/lib/apt/lists/*
COPY prometheus.yml /etc/prometheus/prometheus.yml
# The gateway's own user: the token in the state volume is readable by it alone.
RUN install --directory --owner 10001 --group 10001 /var/lib/prometheus-headgate
USER 10001
EXPOSE 9090
ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", \
  "--storage.tsdb.path=/var/lib/prometheus-headgate", "--web.listen-address=0.0.0.0:9090", \
  "--enable-feature=native-histograms"]
