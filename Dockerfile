# The guarded LiteLLM image: LiteLLM's own, plus the guard, plus a start that makes sure the guard runs.
# `make image` builds this file and fills in the label arguments.
ARG BASE_IMAGE=docker.litellm.ai/berriai/litellm:main-stable
# The guard, the launcher and the test double as one file each, a third of their size; Python imports from such a file as
# from a directory.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS packed
WORKDIR /tmp/packing
COPY hook/akto_guardrails hook/akto_guardrails
COPY image/launcher launcher/launcher
COPY tests/mock_akto mock_akto/mock_akto
RUN mkdir /tmp/packed \
    && for name in hook launcher mock_akto; do \
        python3 -m zipfile -c "/tmp/packed/$name.zip" "$name"/* || exit 1; \
    done \
    && chmod 444 /tmp/packed/*.zip \
    && touch -r hook/akto_guardrails /tmp/packed/*.zip /tmp/packed

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}

ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
ARG BASE_NAME=unknown
ARG BASE_DIGEST=unknown
LABEL org.opencontainers.image.title="guarded-litellm" \
      org.opencontainers.image.description="LiteLLM proxy with Akto guardrails on every request" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.documentation="${SOURCE}#readme" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"

COPY --from=packed --chown=0:0 /tmp/packed /opt/akto
COPY entrypoint.sh /opt/akto/entrypoint.sh

# A place of its own on PYTHONPATH: importable whatever directory the config is in, and no volume hides it.
# The startup hook guards workers that were started past the entrypoint. Of four workers that start on one core uvicorn
# kills two, because they do not answer within its five seconds; with fifteen seconds eight start there. It waits as long
# for a worker that ends before it starts another one, so more would be too much.
ENV PYTHONPATH=/opt/akto/hook.zip${PYTHONPATH:+:${PYTHONPATH}} \
    LITELLM_WORKER_STARTUP_HOOKS=akto_guardrails.worker_startup:ensure_guarded${LITELLM_WORKER_STARTUP_HOOKS:+,${LITELLM_WORKER_STARTUP_HOOKS}} \
    TIMEOUT_WORKER_HEALTHCHECK=15

# Setting the entrypoint resets the base's command, so it is repeated.
ENTRYPOINT ["/opt/akto/entrypoint.sh"]
CMD ["--port", "4000"]
