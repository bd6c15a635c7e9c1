# SPDX-License-Identifier: Apache-2.0
# An app of your own on a client image, in place of the sample. Context: the repository; the app comes as a second one.
# Made by `clf image build app --app DIR`, or by
#   docker build -f docker/clf_client_app.dockerfile --build-context app=DIR -t clf-client-app:gramine1.3-ubuntu20.04 .
ARG CLIENT_IMAGE=clf-client:gramine1.3-ubuntu20.04

FROM scratch AS app
COPY docker/app /

FROM ${CLIENT_IMAGE}
RUN rm -rf /clf/cczoo/cross_lang_framework/clf_client/app/* /clf/gramine
COPY --from=app / /clf/cczoo/cross_lang_framework/clf_client/app/
RUN --mount=type=bind,source=docker,target=/steps \
    sh /steps/steps.sh prepare /clf/cczoo/cross_lang_framework/clf_client/app
ARG CLIENT_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="clf-client-app" \
      org.opencontainers.image.description="CLF: an enclave app that owners can attest" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${CLIENT_IMAGE}"
