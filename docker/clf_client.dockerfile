# SPDX-License-Identifier: Apache-2.0
# The enclave's side: Gramine, Python and Java runtimes, CLF, and the Java sample as the app. Context: the repository.
# Made by `clf image build client --app DIR`, or by
#   docker build -f docker/clf_client.dockerfile -t clf-client:gramine1.3-ubuntu20.04 .
# It is not signed here: no signing key is ever in an image or its layers. `clf image sign` takes the key from outside.
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

FROM ${BASE_IMAGE} AS sample
COPY sdk/java/clf-client/src/main /source/clf-client
COPY sdk/java/clf-compat/src/main /source/clf-compat
COPY examples/java/clf_test.java examples/java/clf.toml /source/
RUN --mount=type=bind,source=docker,target=/steps sh /steps/steps.sh build_sample

# Your clf.toml and your owners' CAs: `--build-context app=DIR` puts another folder in its place.
FROM scratch AS app
COPY docker/app /

FROM ${BASE_IMAGE} AS runtime
COPY --from=python /opt/python /opt/python
COPY --from=clf /opt/clf /opt/clf
RUN --mount=type=bind,source=docker,target=/steps sh /steps/steps.sh runtime openjdk-17-jre-headless
ARG WITH_GRAMINE=1
ARG GRAMINE_VERSION=1.9
ARG GRAMINE_REPOSITORY=https://packages.gramineproject.io/
ARG INTEL_REPOSITORY=https://download.01.org/intel-sgx/sgx_repo/ubuntu
RUN --mount=type=bind,source=docker,target=/steps \
    [ "${WITH_GRAMINE}" = 0 ] || \
    sh /steps/steps.sh install_gramine "${GRAMINE_VERSION}" "${GRAMINE_REPOSITORY}" "${INTEL_REPOSITORY}"
ENV LANG=C.UTF-8
WORKDIR /clf/cczoo/cross_lang_framework/clf_client/app
ENTRYPOINT ["/usr/local/bin/clf-start"]
ARG BASE_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="clf-client" \
      org.opencontainers.image.description="CLF: the enclave's side, with an app that owners can attest" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.clf.gramine="${GRAMINE_VERSION} (WITH_GRAMINE=${WITH_GRAMINE})"

# ==== your app ========================================================================================================
# This image runs the Java sample. Put your own app here instead: everything that clf.toml names, into this folder. The
# last step writes the manifest, with the hash of each file; it must be the last.
COPY --from=sample /sample /clf/cczoo/cross_lang_framework/clf_client/app
COPY --from=app / /clf/cczoo/cross_lang_framework/clf_client/app/
RUN --mount=type=bind,source=docker,target=/steps \
    sh /steps/steps.sh prepare /clf/cczoo/cross_lang_framework/clf_client/app sample
# ==== end of your app =================================================================================================
