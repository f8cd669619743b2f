# shvit serve in a container: the runtime and the server, nothing else. docs/serving.md says how to run it.
FROM python:3.11-slim AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/shvit \
    && /opt/shvit/bin/python -m pip install --no-cache-dir --constraint constraints.txt '.[serve]' \
    && /opt/shvit/bin/python -m pip uninstall --yes pip setuptools

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin shvit
COPY --from=build /opt/shvit /opt/shvit
# Two arenas are enough for its few threads; more only hold memory that is free.
ENV PATH=/opt/shvit/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["shvit", "serve", "--host", "0.0.0.0"]
