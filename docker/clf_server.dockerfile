# SPDX-License-Identifier: Apache-2.0
# An owner's server. Context: the repository. Made by `clf image build server`, or by
#   docker build -f docker/clf_server.dockerfile -t clf-server:gramine1.3-ubuntu20.04 .
# No key and no data is in it: the owner's folder is mounted when it runs.
ARG BASE_IMAGE=ubuntu:20.04

FROM ${BASE_IMAGE} AS python
ARG PYTHON_VERSION=3.12.12
ARG PYTHON_SHA256=fb85a13414b028c49ba18bbd523c2d055a30b56b18b92ce454ea2c51edc656c4
ARG PYTHON_SOURCE=https://www.python.org/ftp/python
RUN --mount=type=bind,source=docker,target=/steps \
    --mount=type=secret,id=ca-bundle --mount=type=secret,id=python-source \
    sh /steps/steps.sh build_python "${PYTHON_VERSION}" "${PYTHON_SHA256}" "${PYTHON_SOURCE}"

FROM python AS clf
COPY pyproject.toml README.md LICENSE /source/
COPY requirements /source/requirements
COPY src /source/src
RUN --mount=type=bind,source=docker,target=/steps \
    --mount=type=secret,id=ca-bundle --mount=type=secret,id=pip-config \
    sh /steps/steps.sh install_clf

FROM ${BASE_IMAGE}
COPY --from=python /opt/python /opt/python
COPY --from=clf /opt/clf /opt/clf
RUN --mount=type=bind,source=docker,target=/steps sh /steps/steps.sh runtime
ENV LANG=C.UTF-8
WORKDIR /clf/cczoo/cross_lang_framework/clf_server
# The owner's folder belongs to this user; nothing that the server does needs root.
USER 10001:10001
EXPOSE 4433
ENTRYPOINT ["/opt/clf/bin/clf"]
CMD ["server", "run", "/clf/cczoo/cross_lang_framework/clf_server"]
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="clf-server" \
      org.opencontainers.image.description="CLF: an owner's server, which releases files to attested enclaves only" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
