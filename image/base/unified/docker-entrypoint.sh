#!/bin/sh
# The stand-in's counterpart of LiteLLM's unified entrypoint: a component word, or LITELLM_COMPONENT when there is none,
# then the arguments of that component. The package has neither backend nor UI nor migrations: these say what they are.
set -eu

component=${LITELLM_COMPONENT:-proxy}
case "${1-}" in
    proxy | gateway | backend | ui | migrations | metrics | collector)
        component=$1
        shift
        ;;
    "" | -*) ;;
    *) exec "$@" ;;
esac

case "$component" in
    proxy) exec litellm "$@" ;;
    # Past LiteLLM's command line, so that the config can only come by CONFIG_FILE_PATH.
    gateway) exec uvicorn litellm.proxy.proxy_server:app --workers "${NUM_WORKERS:-1}" --host 0.0.0.0 --port 4000 "$@" ;;
    metrics) exec python -m litellm.proxy.prometheus_metrics_server "$@" ;;
    collector) exec python -m litellm.proxy.collector "$@" ;;
    backend | ui | migrations) echo "$component: $*" ;;
    *)
        echo "unknown LITELLM_COMPONENT '$component'" >&2
        exit 64
        ;;
esac
