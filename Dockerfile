# The operator's image: docker build -t leasehold-operator .
# Without Docker: make image, which takes what is in it and how it runs from the last stage.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# Linked statically, so that it needs nothing. It names its target so that build scripts and macros are not.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && cargo build --release --locked --package leasehold-operator --features otlp --bin leasehold-operator --target "$target" \
 && cp "target/$target/release/leasehold-operator" /leasehold-operator

FROM scratch
LABEL org.opencontainers.image.title="leasehold-operator"
LABEL org.opencontainers.image.description="Operator for Leasehold: distributed locks in the Kubernetes API server"
LABEL org.opencontainers.image.source="https://github.com/leasehold/leasehold"
LABEL org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /leasehold-operator /leasehold-operator
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/leasehold-operator"]
