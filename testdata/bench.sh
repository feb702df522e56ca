#!/usr/bin/env bash
# Measures what foreman costs, and what it costs when it grows: testdata/bench.sh -h
set -euo pipefail

usage() {
	cat <<'END'
usage: testdata/bench.sh

Prints in Markdown what foreman costs beside a bare httputil.ReverseProxy, and
beside HAProxy, nginx and Caddy where they are installed: its start, the rate and
latency of embeddings, the memory of a queued chat, and how long the Ollama host
is idle between two chats. In the end 10,000 chats stand in line for a minute,
with heartbeats and without.

Needs Linux and Go. The Ollama host is a stub. Everything listens on 127.0.0.1.
END
}
case "$#:${1-}" in
0:) ;;
1:-h | 1:-help | 1:--help)
	usage
	exit
	;;
*)
	echo "testdata/bench.sh: unexpected argument: $*; expected none, or -h for help" >&2
	exit 2
	;;
esac

cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
ulimit -n "$(ulimit -Hn)"

go build -o "$scratch/foreman" .
go build -o "$scratch/bench" ./testdata/bench

cat >"$scratch/foreman.sh" <<END
FOREMAN_OLLAMA_URL=http://\$TARGET FOREMAN_ADDR=\$LISTEN FOREMAN_EMBED_MODEL=embed FOREMAN_MAX_QUEUE=20000 exec $scratch/foreman 2>$scratch/foreman.log
END
cat >"$scratch/haproxy.sh" <<END
cat >$scratch/haproxy.cfg <<CFG
global
    nbthread 2
defaults
    mode http
    timeout connect 5s
    timeout client 10m
    timeout server 10m
    timeout queue 10m
    option http-no-delay
frontend f
    bind \$LISTEN
    acl chat path /api/chat
    use_backend chat if chat
    default_backend rest
backend chat
    server t \$TARGET maxconn 1
backend rest
    server t \$TARGET
CFG
exec haproxy -db -q -f $scratch/haproxy.cfg
END
cat >"$scratch/nginx.sh" <<END
cat >$scratch/nginx.cfg <<CFG
daemon off;
worker_processes 2;
worker_rlimit_nofile 30000;
pid $scratch/nginx.pid;
error_log $scratch/nginx.log;
events { worker_connections 15000; }
http {
    access_log off;
    upstream t { server \$TARGET; keepalive 2000; }
    server {
        listen \$LISTEN;
        location / { proxy_pass http://t; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 600s; }
    }
}
CFG
exec nginx -e $scratch/nginx.log -c $scratch/nginx.cfg
END
cat >"$scratch/caddy.sh" <<END
cat >$scratch/Caddyfile <<CFG
{
    admin off
    auto_https off
    log {
        level ERROR
    }
}
http://\$LISTEN {
    reverse_proxy \$TARGET {
        flush_interval -1
    }
}
CFG
exec caddy run --config $scratch/Caddyfile --adapter caddyfile 2>$scratch/caddy.log
END

fronts=("foreman=sh $scratch/foreman.sh" "bare ReverseProxy=$scratch/bench bare")
command -v haproxy >/dev/null && fronts+=("HAProxy, maxconn 1=sh $scratch/haproxy.sh")
command -v nginx >/dev/null && fronts+=("nginx=sh $scratch/nginx.sh")
command -v caddy >/dev/null && fronts+=("Caddy=sh $scratch/caddy.sh")

printf '%s, %s cores, %s, foreman at %s\n\n' \
	"$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$(go env GOVERSION)" "$(git rev-parse --short HEAD 2>/dev/null || echo '?')"
"$scratch/bench" "${fronts[@]}"
echo
"$scratch/bench" beats "sh $scratch/foreman.sh"
