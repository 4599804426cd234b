# The images of minichat. Each contains one static program and nothing else:
#
#   docker build --target dataplane --tag minichat-dataplane:0.1.0 --build-arg REVISION=$(git rev-parse HEAD) .
#   docker build --target operator --tag minichat-operator:0.1.0 --build-arg REVISION=$(git rev-parse HEAD) .
#
# No image needs files besides its program: the certificates of public authorities are compiled in, those of a cluster
# are mounted, and SQLite keeps temporary tables in memory.

ARG RUST=docker.io/library/rust:1.95.0-slim-bookworm

# `--build-context programs=DIRECTORY` takes the programs from DIRECTORY/programs instead, as the tests do.
FROM ${RUST} AS programs
# The image's own toolchain; rust-toolchain.toml would add components that a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN cargo static --release --target "$(rustc --print host-tuple)" \
  && mkdir /programs \
  && cp target/*/release/minichat-dataplane target/*/release/minichat-operator \
    target/*/release/minichat-scripted-provider /programs/ \
  && strip /programs/*

FROM scratch AS dataplane
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="minichat-dataplane" \
  org.opencontainers.image.description="Serves chat tenants" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
COPY --from=programs /programs/minichat-dataplane /minichat-dataplane
USER 65532:65532
EXPOSE 8087 9090
ENTRYPOINT ["/minichat-dataplane"]

FROM scratch AS operator
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="minichat-operator" \
  org.opencontainers.image.description="Renders chat tenants for the data planes" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
COPY --from=programs /programs/minichat-operator /minichat-operator
USER 65532:65532
EXPOSE 9090
ENTRYPOINT ["/minichat-operator"]

# A scripted provider for demos and tests.
FROM scratch AS scripted-provider
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="minichat-scripted-provider" \
  org.opencontainers.image.description="Scripted model provider for demos and tests" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
COPY --from=programs /programs/minichat-scripted-provider /minichat-scripted-provider
USER 65532:65532
EXPOSE 18080
ENTRYPOINT ["/minichat-scripted-provider"]
CMD ["--listen", "0.0.0.0:18080"]
