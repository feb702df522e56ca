#!/usr/bin/env bash
# Measures what foreman costs, and what it gives to those who share a host: testdata/bench.sh -h
set -euo pipefail

usage() {
	cat <<'END'
usage: testdata/bench.sh [-short | -workload [FLAG...]]

Measures what foreman costs, and prints it in Markdown, beside a bare
httputil.ReverseProxy, a foreman whose main reserves no heap, and HAProxy, nginx
and Caddy where they are installed:

  - its start, and its memory then
  - the rate and latency of embeddings: 1, 32 and 1,000 at once
  - 10 to 10,000 queued chats: the memory of one, and how long the Ollama host is
    idle between two
  - the same idle time with 16 clients that keep their connections
  - how long a streamed word is on its way
  - 10,000 chats that stand in line for a minute, with heartbeats and without

Each front is measured in turn with the others, in five rounds; 10,000 chats in one.
The last table but one has the ratios of foreman's figures to those of the others.
The tables go to stdout, what is being measured to stderr.

Needs Linux and Go. The Ollama host is a stub. Everything listens on 127.0.0.1.
Takes seven minutes on two cores with all fronts.

  -short  measure too little to tell anything, in 40 seconds, to see that it works
  -h      print this

With -workload it compares what people, agents and a batch that share a host make of
it without a front, and behind HAProxy, llama-swap and foreman: an hour of work, thirty
times as fast, on hosts that load a model in 3, 8 and 30 s, and then twenty minutes of
it with a real Ollama whose runner is a stand-in. It takes 40
minutes, prints tables in Markdown, and leaves pictures in a folder that it names.
With flags it is testdata/bench/workload with these flags, for a part of it (which its
-h tells, and testdata/bench/README.md), and -ollama is a flag without a value.

Both wait until the machine is quiet, for ten minutes at most, and tell its load.
BENCH_WAIT=0 in the environment has them begin at once.
END
}
short=()
workload=
case "${1-}" in
-workload)
	workload=true
	shift
	;;
*)
	case "$#:${1-}" in
	0:) ;;
	1:-short) short=(-short) ;;
	1:-h | 1:-help | 1:--help)
		usage
		exit
		;;
	*)
		echo "testdata/bench.sh: unexpected arguments: $*; expected none, or -short, or -h for help, or -workload" >&2
		exit 2
		;;
	esac
	;;
esac

cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
ulimit -n "$(ulimit -Hn)"

# quiet waits until the machine has nothing else to do.
quiet() {
	local load until=$((SECONDS + ${BENCH_WAIT:-600}))
	while read -r load _ </proc/loadavg && [[ $SECONDS -lt $until && 10#${load/./} -ge 50 ]]; do
		echo "waiting for a quiet machine: its load is $load" >&2
		sleep 15
	done
}

echo 'building foreman and testdata/bench' >&2
if [ -n "$workload" ]; then
	go build -o "$scratch/workload" ./testdata/bench/workload
	# scaled SCALE CONSTANT... builds a foreman whose gate's constants run so many times as fast, and such a llama-swap.
	scaled() {
		local constants=${*:2}
		sed -E "s#^(\t|const )(${constants// /|})( += [a-zA-Z0-9.* ]*(/ 10)?)#\1\2\3 / $1 #" gate/rules.go >"$scratch/rules.go"
		if [ "$(diff gate/rules.go "$scratch/rules.go" | grep -c '^>')" != $(($# - 1)) ]; then
			echo "testdata/bench.sh: gate/rules.go has not each of the constants $constants: adapt the script" >&2
			exit 1
		fi
		printf '{"Replace":{"%s":"%s"}}' "$PWD/gate/rules.go" "$scratch/rules.go" >"$scratch/overlay.json"
		go build -overlay "$scratch/overlay.json" -o "$scratch/foreman" .
		command -v llama-swap >/dev/null || swap "$1" || echo 'llama-swap cannot be built' >&2
	}
	swap() {
		local copy=$scratch/swap-$1 module
		module=$(go mod download -json github.com/mostlygeek/llama-swap@v0.1.5 | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') &&
			cp -r "$module" "$copy" && chmod -R u+w "$copy" &&
			sed -i -E "s#250 \* time.Millisecond|5\*time.Second#& / $1#" "$copy/proxy/process.go" &&
			go -C "$copy" build -o "$scratch/llama-swap" .
	}
	bounds=(patience leastToStay longestToStay unknownToStay)
	host() { # builds the real Ollama
		go -C testdata/e2e build -o "$scratch/host" ./host
		binary=$("$scratch/host" -build "$scratch/ollama")
		printf '#!/bin/sh\nexec %s %s\n' "$scratch/host" "$binary" >"$scratch/host.sh"
		chmod +x "$scratch/host.sh"
	}
	measure() { "$scratch/workload" -foreman "$scratch/foreman" -llama-swap "$(command -v llama-swap || echo "$scratch/llama-swap")" "$@"; }
	machine() {
		quiet
		printf '%s, %s cores, %s, foreman at %s\n\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
			"$(go env GOVERSION)" "$(git rev-parse --short HEAD 2>/dev/null || echo '?')"
	}
	if [ "$#" -gt 0 ]; then
		flags=() scale=60 last=
		for flag in "$@"; do
			flags+=("$flag")
			[ "$last" != -scale ] || scale=$flag
			if [ "$flag" = -ollama ]; then
				host
				flags+=("$scratch/host.sh")
			fi
			last=$flag
		done
		case " $* " in
		*' -simulate '* | *' -from '* | *' -resources '* | *' -h '*) ;; # nothing is measured
		*' -ollama '*)
			scaled "$scale" "${bounds[@]}"
			machine
			;;
		*)
			scaled "$scale" "${bounds[@]}" leastLoad
			machine
			;;
		esac
		measure "${flags[@]}"
		exit
	fi
	out=$(mktemp -d -t workload.XXXX)
	host
	scaled 30 "${bounds[@]}" leastLoad
	machine
	measure -seeds 1,2 -scale 30 -out "$out"
	echo
	scaled 30 "${bounds[@]}" # a real Ollama tells some milliseconds of a model that was loaded before
	measure -ollama "$scratch/host.sh" -loads 8 -scale 30 -horizon 1200 -out "$out/ollama"
	echo
	measure -simulate -seeds "$(seq -s , 1 24)"
	echo "pictures and runs are in $out" >&2
	exit
fi

go build -o "$scratch/foreman" .
go build -o "$scratch/bench" ./testdata/bench

# The foreman that reserves nothing has another main.go.
sed 's/^\tballast := make(.*)$/\tballast := []byte(nil)/' main.go >"$scratch/main.go"
if cmp -s main.go "$scratch/main.go"; then
	echo 'testdata/bench.sh: main.go has no line "ballast := make(...)": adapt the script' >&2
	exit 1
fi
printf '{"Replace":{"%s":"%s"}}' "$PWD/main.go" "$scratch/main.go" >"$scratch/overlay.json"
go build -overlay "$scratch/overlay.json" -o "$scratch/unreserved" .

for name in foreman unreserved; do
	cat >"$scratch/$name.sh" <<END
FOREMAN_OLLAMA_URL=http://\$TARGET FOREMAN_ADDR=\$LISTEN FOREMAN_EMBED_MODEL=embed FOREMAN_MAX_QUEUE=20000 exec $scratch/$name 2>$scratch/$name.log
END
done
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
fronts+=("foreman, no heap reserved=sh $scratch/unreserved.sh")

[ "${#short[@]}" -gt 0 ] || quiet
printf '%s, %s cores, load %s at the start, %s, foreman at %s\n\n' \
	"$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$(cut -d ' ' -f 1 /proc/loadavg)" \
	"$(go env GOVERSION)" "$(git rev-parse --short HEAD 2>/dev/null || echo '?')"
"$scratch/bench" "${short[@]}" "${fronts[@]}"
