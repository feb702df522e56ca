// Foreman is a proxy in front of one Ollama host that makes a shared machine
// safe to share: it lets one chat at a time at the worker model and embeddings
// through untouched, knows which models there are even while the host is away,
// and keeps the embedding model resident.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"foreman/config"
	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy"
	"foreman/proxy/conns"
	"foreman/proxy/target"
	"foreman/proxy/tokens"
	"foreman/warm"
)

func main() {
	signalled, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, end := context.WithCancel(context.Background())
	context.AfterFunc(signalled, func() { stop(); end() }) // in this order: from here on a second signal kills

	// A request leaves 18 KB behind and as a rule 3 MB are alive: the collector, which
	// runs when the heap has doubled, would run fifty times a second where embeddings
	// come in by the dozen. This counts, and as nobody touches it, takes no memory.
	ballast := make([]byte, 12<<20)
	defer runtime.KeepAlive(ballast)

	err := command(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.As(err, new(usageError)) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// A usageError is a mistake in how foreman was started.
type usageError struct{ error }

// command does what the arguments ask for.
func command(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("foreman", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main reports what is wrong
	showVersion := flags.Bool("version", false, "")
	healthcheck := flags.Bool("healthcheck", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return usage(os.Stdout, os.Getenv, os.Environ())
	case err != nil:
		return usageError{fmt.Errorf("%w; see foreman -h", err)}
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("unexpected argument %q: foreman is configured by environment variables, see foreman -h", flags.Arg(0))}
	case *showVersion:
		version, commit := build()
		_, err := fmt.Printf("foreman %s (commit %s, %s, %s/%s)\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	case *healthcheck:
		return checkHealth(ctx, os.Getenv)
	default:
		return run(ctx, os.Getenv, os.Environ(), os.Stderr)
	}
}

// run is foreman, from its configuration to its end, which ctx brings about.
func run(ctx context.Context, getenv func(string) string, environ []string, stderr io.Writer) error {
	cfg, err := config.Load(getenv)
	if err != nil {
		return usageError{err}
	}
	log := newLogger(cfg, stderr)
	stdlog.SetFlags(0)
	stdlog.SetOutput(libraryLog{log})
	version, commit := build()
	log.Info("starting", "version", version, "commit", commit, "config", cfg)
	for _, name := range config.Unknown(environ) {
		log.Warn("variable unknown to foreman", "name", name)
	}

	limits := conns.LimitsFor(conns.Descriptors(), cfg.MaxQueue)
	if limits.Line < cfg.MaxQueue {
		log.Warn("few file descriptors: fewer chats may wait than FOREMAN_MAX_QUEUE", "descriptors", conns.Descriptors(), "chats", limits.Line)
	}
	host := target.New(cfg.OllamaURL, cfg.OllamaToken)
	host.Limit(limits.Host)
	inv := inventory.New(host, cfg.PollInterval, log, proxy.KeptPaths...)
	if cfg.WakeMAC != nil {
		inv.Waker, inv.WakeTimeout = &target.Waker{MAC: cfg.WakeMAC, Addr: cfg.WakeAddr}, cfg.WakeTimeout
	}
	line := gate.New(limits.Line)
	line.Fair, line.Affinity = cfg.Fair, cfg.Affinity
	var named *tokens.File // nil: there is none
	if cfg.TokensFile != "" {
		if named, err = tokens.Open(cfg.TokensFile, log); err != nil {
			return usageError{fmt.Errorf("FOREMAN_TOKENS_FILE: %w", err)}
		}
	}
	var warmer *warm.Warmer // nil: there is no embedder
	if cfg.EmbedModel != "" {
		warmer = warm.New(host, inv, line, cfg.EmbedModel, log)
	}
	ln, err := listen(cfg.Addr)
	if err != nil {
		return err
	}
	clients := conns.Limit(ln, limits, log)
	handler := proxy.New(proxy.Options{
		Target:       host,
		Inventory:    inv,
		Gate:         line,
		Warmer:       warmer,
		Log:          log,
		Version:      version,
		Token:        cfg.Token,
		Tokens:       named,
		ClientHeader: cfg.ClientHeader,
		Hosts:        cfg.Hosts,
		Manage:       cfg.Manage,
		MaxBody:      cfg.MaxBody,
		QueueTimeout: cfg.QueueTimeout,
		Heartbeat:    cfg.Heartbeat,
		StallTimeout: cfg.StallTimeout,
		MaxTurn:      cfg.MaxTurn,
		Embeds:       cfg.Embeds,
		EmbedModel:   cfg.EmbedModel,
		Quiet:        cfg.Quiet,
	})

	// The loops and all requests live in base, which outlasts ctx by the drain.
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	var loops sync.WaitGroup
	defer loops.Wait()
	defer cut(proxy.ErrShuttingDown)
	if warmer == nil {
		log.Info("no FOREMAN_EMBED_MODEL: no embedder is kept resident")
	} else {
		loops.Go(func() { warmer.Run(base) })
	}
	if named != nil {
		loops.Go(func() { named.Run(base, 2*time.Second) })
		loops.Go(func() { proxy.WarnOfModels(base, named, inv, log) })
	}
	loops.Go(func() { inv.Run(base) })
	loops.Go(func() { handler.Run(base) })

	srv := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than clients keep theirs
		MaxHeaderBytes:    16 << 10,        // many small fields take seven times that in memory
		ConnContext:       clients.ConnContext,
		ConnState:         clients.ConnState,

		DisableGeneralOptionsHandler: true, // OPTIONS * is a request as any other
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(clients) }()
	log.Info("listening", "addr", ln.Addr().String())
	if cfg.Token == "" && named == nil && !isLoopback(ln.Addr()) {
		log.Info("no FOREMAN_TOKEN: whoever reaches this address may use it")
	}

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	return drain(ctx, srv, handler, line, cut, cfg.DrainTimeout, log)
}

// listen listens at FOREMAN_ADDR. An address that is not there, or not allowed, is a
// mistake in it; one that somebody else has now is not.
func listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		return ln, nil
	}
	var name *net.DNSError
	mistake := errors.As(err, &name) && name.IsNotFound || errors.As(err, new(*net.AddrError)) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EACCES)
	err = fmt.Errorf("FOREMAN_ADDR: %w", err)
	if mistake {
		return nil, usageError{err}
	}
	return nil, err
}

// drain turns the waiting chats away at once, and whoever comes later, gives the
// running one its time, and then cuts what still runs.
func drain(ctx context.Context, srv *http.Server, handler *proxy.Proxy, line *gate.Gate, cut context.CancelCauseFunc, limit time.Duration, log *slog.Logger) error {
	waiting, busy := line.Len()
	log.Info("shutting down", "waiting_chats_turned_away", waiting, "chat_running", busy, "drain_timeout", limit.String())
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	handler.Close()
	handler.AwaitBalancer(limited)
	if err := srv.Shutdown(limited); err == nil {
		log.Info("drained")
		return nil
	}
	log.Warn("drain timeout: cutting what still runs")
	cut(proxy.ErrShuttingDown)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if srv.Shutdown(last) != nil {
		srv.Close() // a client that does not even read its error
	}
	return nil
}

func newLogger(cfg config.Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// libraryLog takes what the standard library prints by itself. Of a host that sends more
// than its answer it quotes the bytes, which may be a model's words: they are left out.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Write(b []byte) (int, error) {
	text, _, _ := strings.Cut(string(b), `"`)
	l.log.Warn("said by net/http", "err", strings.TrimSpace(text))
	return len(b), nil
}

func isLoopback(addr net.Addr) bool {
	ap, err := netip.ParseAddrPort(addr.String())
	return err == nil && ap.Addr().IsLoopback()
}

// release and revision are set by the Dockerfile, whose build does not see the repository.
var release, revision string

// build returns the version and the commit that foreman was built from.
func build() (version, commit string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	return builtFrom(release, revision, info)
}

// builtFrom returns the release and the revision, or, where they are empty, what go
// build recorded of the version and the commit.
func builtFrom(release, revision string, info *debug.BuildInfo) (version, commit string) {
	recorded := map[string]string{}
	for _, s := range info.Settings {
		recorded[s.Key] = s.Value
	}
	commit = recorded["vcs.revision"]
	if recorded["vcs.modified"] == "true" {
		commit += "-dirty"
	}
	return cmp.Or(release, info.Main.Version, "unknown"), cmp.Or(revision, commit, "unknown")
}

func usage(w io.Writer, getenv func(string) string, environ []string) error {
	fmt.Fprint(w, `usage: foreman [-h | -version | -healthcheck]

foreman is a proxy in front of one Ollama host: one chat at a time, embeddings at once.

  -h            print this, with the values in force
  -version      print the version and the commit
  -healthcheck  ask the foreman that runs here for its /healthz; exit status 0 if it is alive

It is configured by environment variables; an empty one is an unset one:

`)
	return config.Usage(w, getenv, environ)
}

// checkHealth asks the foreman on this machine for /healthz.
func checkHealth(ctx context.Context, getenv func(string) string) error {
	cfg, err := config.Load(getenv)
	if err != nil {
		return usageError{err}
	}
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return err
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port), Path: "/healthz"} // whose String escapes the % of a zone
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Host = "localhost" // which FOREMAN_HOSTS never refuses
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("no foreman answers at FOREMAN_ADDR: %w", err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/healthz answered %s", resp.Status)
	}
	return nil
}
