#!/bin/sh
# Guarded LiteLLM: every request is checked by Akto before a model sees it.
#
#   docker run IMAGE [OPTIONS]            start the proxy, guarded
#   docker run IMAGE litellm [OPTIONS]    the same; so does the word proxy, and on a base of LiteLLM's components the word
#                                         gateway, or LITELLM_COMPONENT=gateway
#   docker run IMAGE --help | --version   LiteLLM's own; no variable needed
#   docker run IMAGE doctor [OPTIONS]     look at what a start needs, and start nothing; --json for programs
#   docker run IMAGE mock-akto [PORT]     a test double of Akto with a page at / (port 8080): it judges by word lists and
#                                         protects nothing. MOCK_AKTO_TOKEN: the one token it accepts, without it any;
#                                         MOCK_AKTO_KEEP: how many calls it keeps (2000)
#   docker run IMAGE COMMAND [ARGUMENT]   anything else is run as it is
#
# Needed:   DATA_INGESTION_SERVICE_URL, AKTO_API_TOKEN; LITELLM_URL for the name of the default collection.
# Config:   CONFIG_FILE_PATH, else --config FILE, --config=FILE or -c FILE, else one is generated.
# Secrets:  every variable also as NAME_FILE, the path of a file that holds the value.
# Exit:     78 when the configuration is wrong, with a message that lists every problem; 1 when Akto cannot be reached
#           and requests without a verdict are to be refused (STARTUP_PROBE=off starts all the same).
set -eu

hook=akto_guardrails.worker_startup:ensure_guarded

launch() {
    PYTHONPATH="/opt/akto/hook.zip:/opt/akto/launcher.zip${PYTHONPATH:+:$PYTHONPATH}" exec python3 -P -m "$@"
}

# The base's entrypoint, for words that only it knows; the newest base has the first one.
base() {
    [ -x /app/docker-entrypoint.sh ] && exec /app/docker-entrypoint.sh "$@"
    exec /app/docker/prod_entrypoint.sh "$@"
}

# Whatever else is run may start LiteLLM, and an operator's own variables replace the image's: ours go back in front.
guarded() {
    case ",${LITELLM_WORKER_STARTUP_HOOKS-}," in
        *,"$hook",*) ;;
        *) export LITELLM_WORKER_STARTUP_HOOKS="$hook${LITELLM_WORKER_STARTUP_HOOKS:+,$LITELLM_WORKER_STARTUP_HOOKS}" ;;
    esac
    case ":${PYTHONPATH-}:" in
        *:/opt/akto/hook.zip:*) ;;
        *) export PYTHONPATH="/opt/akto/hook.zip${PYTHONPATH:+:$PYTHONPATH}" ;;
    esac
}

# A component that serves no model is not guarded, so the image's startup hook must not ask it for Akto's settings.
unguarded() {
    LITELLM_WORKER_STARTUP_HOOKS=$(printf '%s' "${LITELLM_WORKER_STARTUP_HOOKS-}" |
        sed 's/akto_guardrails\.worker_startup:ensure_guarded,\{0,1\}//')
    export LITELLM_WORKER_STARTUP_HOOKS
    base "$@"
}

# Only the newest base knows LITELLM_COMPONENT, and only when it is given no arguments; the image's default command is
# none of the operator's.
component=proxy
if [ -x /app/docker-entrypoint.sh ] && [ -n "${LITELLM_COMPONENT-}" ]; then
    component=$LITELLM_COMPONENT
    [ "$*" != "--port 4000" ] || set --
fi

case "${1-}" in
    --admin-agent) word=backend ;;
    -*) word=proxy ;;
    *) word=${1:-$component} ;;
esac

case "$word" in
    litellm | proxy) launch launcher "$@" ;;
    gateway)
        [ -x /app/docker-entrypoint.sh ] && launch launcher "$@"
        # A word of the newest base: the older one says itself that it does not know it.
        guarded
        base "$@"
        ;;
    doctor)
        shift
        launch launcher.doctor "$@"
        ;;
    mock-akto)
        shift
        PYTHONPATH=/opt/akto/mock_akto.zip exec python3 -P -m mock_akto "$@"
        ;;
    backend | ui | migrations | metrics | collector) unguarded "$@" ;;
    *)
        guarded
        command -v -- "$word" >/dev/null 2>&1 && exec "$@"
        base "$@"
        ;;
esac
