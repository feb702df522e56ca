ARG VERSION=unknown
ARG COMMIT=unknown

# Go cross-compiles: this stage runs on the machine that builds, whatever machine the image is for.
# Docker without BuildKit and Debian 12's buildah do not say what they run on: it has to be amd64.
FROM --platform=${BUILDPLATFORM:-linux/amd64} golang:1.26 AS build
WORKDIR /src
COPY . .
ARG VERSION
ARG COMMIT
ARG TARGETOS
ARG TARGETARCH
# foreman speaks no HTTP/2, neither to clients nor to the host: half a megabyte less. The image
# has no time zones for TZ: the binary has them.
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath -tags nethttpomithttp2,timetzdata -ldflags "-s -w -X main.release=${VERSION} -X main.revision=${COMMIT}" -o /foreman .

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /foreman /foreman
ENV FOREMAN_OLLAMA_URL=http://host.docker.internal:11434
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["/foreman", "-healthcheck"]
ENTRYPOINT ["/foreman"]
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="foreman" \
      org.opencontainers.image.description="A proxy in front of one Ollama host: one chat at a time, embeddings at once" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
