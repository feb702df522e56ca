#!/usr/bin/env bash
# Smoke test of a running foreman, with curl.
#
#   testdata/smoke.sh URL [CHAT_MODEL [EMBED_MODEL]]
#
# One line a check; exit status 0 if all of them passed, 1 if one failed, 2 if
# called wrongly. Where foreman wants a token, set FOREMAN_TOKEN. Without a
# model the checks that need it are left out, and the last line says so. While
# the Ollama host cannot be used, so are all checks that need the host.
set -u

if [ $# -lt 1 ] || [ $# -gt 3 ] || [ "${1#-}" != "$1" ]; then
	sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
url=${1%/} chat=${2:-} embed=${3:-}
passed=0 failed=0 left_out=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

# ask METHOD PATH [BODY]: sets $status; header and body are in $scratch.
ask() {
	local args=(-sS -m 300 -X "$1" -D "$scratch/header" -o "$scratch/body" -w '%{http_code}')
	[ "$1" = HEAD ] && args=(-sS -m 300 -I -D "$scratch/header" -o "$scratch/body" -w '%{http_code}')
	[ -n "${FOREMAN_TOKEN:-}" ] && args+=(-H "Authorization: Bearer $FOREMAN_TOKEN")
	[ $# -gt 2 ] && args+=(-H 'Content-Type: application/json' -d "$3")
	: >"$scratch/header"
	: >"$scratch/body"
	status=$(curl "${args[@]}" "$url$2" 2>"$scratch/error")
}

# check NAME STATUS [PATTERN]: judges the last answer by its status and body.
check() {
	if [ "$status" = "$2" ] && grep -qE -- "${3:-}" "$scratch/body"; then
		echo "ok    $1"
		passed=$((passed + 1))
	else
		echo "FAIL  $1: status $status, want $2${3:+ and /$3/}: $(cat "$scratch/body" "$scratch/error" | head -c 200 | tr '\n' ' ')"
		failed=$((failed + 1))
	fi
}

# header NAME PATTERN: judges a header field of the last answer.
header() {
	if grep -qiE -- "$2" "$scratch/header"; then
		echo "ok    $1"
		passed=$((passed + 1))
	else
		echo "FAIL  $1: no $2 in: $(tr -d '\r' <"$scratch/header" | tr '\n' ' ')"
		failed=$((failed + 1))
	fi
}

# leave_out NAME WHY
leave_out() {
	echo "-     $1: $2"
	left_out=$((left_out + 1))
}

# finish prints the last line and ends the script.
finish() {
	echo "$passed passed, $failed failed, $left_out left out"
	[ "$failed" -eq 0 ]
	exit
}

ask GET /healthz
if [ "$status" = 000 ]; then
	echo "FAIL  nobody answers at $url: $(cat "$scratch/error")"
	exit 1
fi
check 'healthz: foreman is alive' 200 '"status":"(ok|degraded)"'
ask GET /readyz
check 'readyz: the Ollama host can be used' 200 '"status":"ok"'
ready=$status
ask GET /api/chat
if [ "$status" = 401 ]; then
	echo "FAIL  FOREMAN_TOKEN is not set or not foreman's: the other checks are left out"
	failed=$((failed + 1))
	finish
fi
check 'chat: GET is refused' 405
ask POST /api/chat
check 'chat: no body is refused' 400 '^\{"error":"missing request body"\}'
ask POST /api%2Fchat '{}'
check 'no way around the gate' 404
if [ "$ready" != 200 ]; then
	leave_out 'all other checks' 'they need the Ollama host'
	finish
fi

ask HEAD /
check 'HEAD /: what every ollama command begins with' 200
ask GET /api/version
check 'version' 200 '"version":'
ask GET /api/tags
check 'tags: the inventory' 200 '"models":\['
header 'tags: with its age' '^Age: [0-9]+'
ask GET /api/ps
check 'ps: the resident models' 200 '"models":'
ask POST /api/chat '{"model":"no-such-model-here","messages":[]}'
check 'chat: an unknown model is refused' 404 "^\{\"error\":\"model 'no-such-model-here' not found\"\}"

if [ -n "$chat" ]; then
	hello="\"model\":\"$chat\",\"messages\":[{\"role\":\"user\",\"content\":\"Say hello.\"}],\"options\":{\"num_predict\":16}"
	ask POST /api/chat "{$hello,\"stream\":false}"
	check 'chat: not streaming' 200 '"message":.*"done":true'
	header 'chat: tells its wait for a turn' '^Server-Timing: queue;dur='
	ask POST /api/chat "{$hello}"
	check 'chat: streaming' 200 '"done":true'
	header 'chat: as NDJSON' '^Content-Type: application/x-ndjson'
else
	leave_out 'chat' 'no CHAT_MODEL given'
fi
if [ -n "$embed" ]; then
	ask POST /api/embed "{\"model\":\"$embed\",\"input\":\"hello\"}"
	check 'embed' 200 '"embeddings":\[\['
	ask POST /api/embeddings "{\"model\":\"$embed\",\"prompt\":\"hello\"}"
	check 'embeddings: its alias' 200 '"embedding":\['
else
	leave_out 'embed' 'no EMBED_MODEL given'
fi

finish
