# SPDX-License-Identifier: Apache-2.0
# Signs the app of an image: the same image with app.manifest.sgx and app.sig. The key is a secret of this one step: it
# is mounted while gramine-sgx-sign runs and is in no layer. Made by `clf image sign IMAGE --key KEY`, or by
#   docker build -f docker/clf_sign.dockerfile --build-arg IMAGE=... --secret id=signing-key,src=KEY -t ... docker
ARG IMAGE

# hadolint ignore=DL3006
FROM ${IMAGE}
RUN --mount=type=secret,id=signing-key,required=true \
    gramine-sgx-sign --quiet --key /run/secrets/signing-key --manifest /clf/gramine/app.manifest \
    --output /clf/gramine/app.manifest.sgx --sigfile /clf/gramine/app.sig
