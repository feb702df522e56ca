package config

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const prefix = "FOREMAN_"

// A variable is one environment variable: a row of the table that the README,
// foreman -h and Load share.
type variable struct {
	name     string
	fallback string // value in force when the variable is unset or empty
	meaning  string
	expected string                             // what a good value is, for the error
	set      func(c *Config, value string) bool // reports whether value, never empty, is good
	hint     func(value string) string          // what in particular is wrong with a bad value; may be nil or return ""
	mask     func(value string) string          // what may be shown of it; nil: all
}

var variables = []variable{
	{
		name: "FOREMAN_ADDR", fallback: ":8080", meaning: "address to listen on",
		expected: "HOST:PORT or :PORT",
		set: func(c *Config, s string) bool {
			c.Addr = s
			host, port, err := net.SplitHostPort(s)
			return err == nil && isPort(port) && isListenHost(host)
		},
		hint: func(s string) string {
			switch host, port, err := net.SplitHostPort(s); {
			case err == nil && !isPort(port):
				return "the port must be a number from 0 to 65535"
			case err == nil && !isListenHost(host):
				return "the host must be an IP address or a name"
			}
			return ""
		},
	}, {
		name: "FOREMAN_OLLAMA_URL", fallback: "http://localhost:11434", meaning: "root URL of the Ollama host, without /v1 or /api",
		expected: "http://HOST:PORT or https://HOST:PORT, without user info, query or fragment",
		set: func(c *Config, s string) bool {
			u, err := url.Parse(s)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
				u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#") || ollamaURLHint(s) != "" {
				return false
			}
			u.Path = strings.TrimRight(u.Path, "/")
			u.RawPath = ""
			c.OllamaURL = u
			return true
		},
		hint: ollamaURLHint,
		mask: maskURL,
	}, {
		name: "FOREMAN_OLLAMA_TOKEN", meaning: "bearer token sent to the Ollama host",
		expected: "visible ASCII characters and no space",
		set:      func(c *Config, s string) bool { c.OllamaToken = s; return isToken(s) },
		mask:     mask,
	}, {
		name: "FOREMAN_EMBED_MODEL", meaning: "embedding model to keep resident; empty: none",
		expected: "a model's name, such as nomic-embed-text",
		set: func(c *Config, s string) bool {
			c.EmbedModel = s
			return isToken(s)
		},
	}, {
		name: "FOREMAN_POLL_INTERVAL", fallback: "30s", meaning: "time between two polls of the models; while degraded at most 5s",
		expected: "a duration of at least 100ms, such as 30s or 5m",
		set:      duration(100*time.Millisecond, func(c *Config) *time.Duration { return &c.PollInterval }),
	}, {
		name: "FOREMAN_TOKEN", meaning: "bearer token that clients must send; /, /healthz and /readyz stay open",
		expected: "visible ASCII characters and no space",
		set:      func(c *Config, s string) bool { c.Token = s; return isToken(s) },
		mask:     mask,
	}, {
		name: "FOREMAN_TOKENS_FILE", meaning: "file with a line a client: name token [weight=N] [background] [models=a,b*] [owner], read again within 5s of the last change; # begins a comment",
		expected: "a file's path",
		set:      func(c *Config, s string) bool { c.TokensFile = s; return strings.TrimSpace(s) != "" },
	}, {
		name: "FOREMAN_CLIENT_HEADER", meaning: "header field in which a gateway names its user; believed only with FOREMAN_TOKEN",
		expected: "the name of a header field that has no credentials, such as X-OpenWebUI-User-Id",
		set: func(c *Config, s string) bool {
			c.ClientHeader = http.CanonicalHeaderKey(s)
			return isFieldName(s) && !hasCredentials(s)
		},
	}, {
		name: "FOREMAN_HOSTS", meaning: "accepted Host names, separated by commas, beside IP addresses and localhost; empty: any with a token, without one only local names",
		expected: "host names without port, with commas between, such as foreman.lan,gpu.example.com",
		set: func(c *Config, s string) bool {
			for host := range strings.SplitSeq(s, ",") {
				host = strings.TrimSuffix(strings.ToLower(strings.TrimSpace(host)), ".")
				if !isHostName(host) {
					return false
				}
				c.Hosts = append(c.Hosts, host)
			}
			return true
		},
	}, {
		name: "FOREMAN_MANAGE", fallback: "false", meaning: "let pull, push, create, copy and delete through",
		expected: "true or false",
		set:      boolean(func(c *Config) *bool { return &c.Manage }),
	}, {
		name: "FOREMAN_MAX_QUEUE", fallback: "512", meaning: "chats that may wait; with one more, whoever has most in line loses the last (503)",
		expected: "a whole number from 0 to 1000000",
		set:      number(1_000_000, func(c *Config) *int { return &c.MaxQueue }),
	}, {
		name: "FOREMAN_FAIR", fallback: "true", meaning: "clients share the host's time: whoever has had the least goes first; false: order of arrival",
		expected: "true or false",
		set:      boolean(func(c *Config) *bool { return &c.Fair }),
	}, {
		name: "FOREMAN_AFFINITY", fallback: "auto", meaning: "how long whoever goes first may be overtaken by chats for the model that is already loaded; auto: for three loads, 20s to 2m; 0: never",
		expected: "auto, a duration such as 30s, or 0",
		set: func(c *Config, s string) bool {
			c.Affinity = -1
			return s == "auto" || duration(0, func(c *Config) *time.Duration { return &c.Affinity })(c, s)
		},
	}, {
		name: "FOREMAN_QUIET", meaning: "when the host is not for clients, by the clock in the zone of TZ; empty: never",
		expected: "times such as 22:00-07:00 or Mon-Fri 09:00-17:00, several with commas between",
		set: func(c *Config, s string) (ok bool) {
			h, err := parseHours(s)
			c.Quiet = h.until
			return err == nil
		},
		hint: func(s string) string {
			if _, err := parseHours(s); err != nil {
				return err.Error()
			}
			return ""
		},
	}, {
		name: "FOREMAN_QUEUE_TIMEOUT", fallback: "0", meaning: "longest wait for a turn, then 503; 0: as long as the client waits",
		expected: "a duration such as 90s or 5m, or 0",
		set:      duration(0, func(c *Config) *time.Duration { return &c.QueueTimeout }),
	}, {
		name: "FOREMAN_HEARTBEAT", fallback: "20s", meaning: "how long a client that waits for a stream may hear nothing; 0: for ever",
		expected: "a duration of at least 100ms, such as 20s, or 0",
		set: func(c *Config, s string) bool {
			return duration(0, func(c *Config) *time.Duration { return &c.Heartbeat })(c, s) && (c.Heartbeat == 0 || c.Heartbeat >= 100*time.Millisecond)
		},
	}, {
		name: "FOREMAN_MAX_BODY", fallback: "64MiB", meaning: "largest request body (else 413); all waiting bodies: 4 times that, at least 256MiB (else 503)",
		expected: "a size from 1KiB to 1TiB, such as 64MiB or 500KB",
		set: func(c *Config, s string) (ok bool) {
			c.MaxBody, ok = parseSize(s)
			return ok && c.MaxBody >= 1<<10
		},
	}, {
		name: "FOREMAN_STALL_TIMEOUT", fallback: "10m", meaning: "longest silence within an answer of an Ollama host that answers polls; then it is cut",
		expected: "a duration of at least 1s, such as 10m",
		set:      duration(time.Second, func(c *Config) *time.Duration { return &c.StallTimeout }),
	}, {
		name: "FOREMAN_MAX_TURN", fallback: "1h", meaning: "longest turn of a chat; then 504, or an error in its stream; 0: as long as it takes",
		expected: "a duration of at least 1s, such as 1h, or 0",
		set: func(c *Config, s string) bool {
			return duration(0, func(c *Config) *time.Duration { return &c.MaxTurn })(c, s) && (c.MaxTurn == 0 || c.MaxTurn >= time.Second)
		},
	}, {
		name: "FOREMAN_EMBEDS", fallback: "0", meaning: "embeddings at the host at once; of more, clients take turns; 0: any number",
		expected: "a whole number from 0 to 1000",
		set:      number(1000, func(c *Config) *int { return &c.Embeds }),
	}, {
		name: "FOREMAN_WAKE", meaning: "MAC address of the Ollama host's machine, to wake it when a chat or an embedding finds it asleep; empty: never",
		expected: "a MAC address such as aa:bb:cc:dd:ee:ff, or one with the address to send to, as aa:bb:cc:dd:ee:ff@192.168.1.255:9",
		set: func(c *Config, s string) bool {
			mac, addr, _ := strings.Cut(s, "@")
			card, err := net.ParseMAC(mac)
			c.WakeMAC, c.WakeAddr = card, addr
			return err == nil && wakeHint(s) == ""
		},
		hint: wakeHint,
	}, {
		name: "FOREMAN_WAKE_TIMEOUT", fallback: "3m", meaning: "how long chats and embeddings wait for a host that is being woken; then 503",
		expected: "a duration of at least 1s, such as 3m",
		set:      duration(time.Second, func(c *Config) *time.Duration { return &c.WakeTimeout }),
	}, {
		name: "FOREMAN_DRAIN_TIMEOUT", fallback: "30s", meaning: "how long the running chat may go on after SIGTERM",
		expected: "a duration such as 30s, or 0",
		set:      duration(0, func(c *Config) *time.Duration { return &c.DrainTimeout }),
	}, {
		name: "FOREMAN_LOG_LEVEL", fallback: "info", meaning: "lowest level to log: debug, info, warn or error",
		expected: "debug, info, warn or error",
		set: func(c *Config, s string) bool {
			return !strings.ContainsAny(s, "+-") && c.LogLevel.UnmarshalText([]byte(s)) == nil
		},
	}, {
		name: "FOREMAN_LOG_FORMAT", fallback: "text", meaning: "log records as text or json",
		expected: "text or json",
		set: func(c *Config, s string) (ok bool) {
			c.LogJSON, ok = s == "json", s == "json" || s == "text"
			return ok
		},
	},
}

func boolean(field func(*Config) *bool) func(*Config, string) bool {
	return func(c *Config, s string) bool {
		*field(c) = s == "true"
		return s == "true" || s == "false"
	}
}

func number(most int, field func(*Config) *int) func(*Config, string) bool {
	return func(c *Config, s string) bool {
		n, err := strconv.Atoi(s)
		*field(c) = n
		return err == nil && 0 <= n && n <= most
	}
}

func duration(least time.Duration, field func(*Config) *time.Duration) func(*Config, string) bool {
	return func(c *Config, s string) bool {
		d, err := time.ParseDuration(s)
		*field(c) = d
		return err == nil && d >= least
	}
}

// units of a size, decimal and binary.
var units = map[string]int64{
	"": 1, "B": 1,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// parseSize reads a whole number of bytes, at most 1 TiB, with an optional unit.
func parseSize(s string) (int64, bool) {
	digits := strings.TrimRight(s, "KMGTiB")
	n, err := strconv.ParseInt(digits, 10, 64)
	unit, known := units[s[len(digits):]]
	if err != nil || !known || n < 0 || n > (1<<40)/unit {
		return 0, false
	}
	return n * unit, true
}

// ollamaURLHint says what is wrong with a URL that is one of http or https, but
// has a bad port or ends in the path of an API.
func ollamaURLHint(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	path := strings.TrimRight(u.Path, "/")
	switch port := u.Port(); {
	case strings.HasSuffix(u.Host, ":"), port != "" && (!isPort(port) || strings.Trim(port, "0") == ""):
		return "the port must be a number from 1 to 65535"
	case strings.HasSuffix(path, "/v1"), strings.HasSuffix(path, "/api"):
		return "give the root of the host, without " + path[strings.LastIndexByte(path, '/'):] + " at the end"
	}
	return ""
}

// wakeHint says what is wrong with a MAC address and where to send to, if the first can be
// parsed. A network card's has 48 bits, is not all 0, and that of no group (IEEE 802).
func wakeHint(s string) string {
	mac, addr, found := strings.Cut(s, "@")
	card, err := net.ParseMAC(mac)
	host, port, errAddr := net.SplitHostPort(addr)
	switch {
	case err != nil:
		return ""
	case len(card) != 6 || card[0]&1 != 0 || slices.Max(card) == 0:
		return "no network card has this MAC address"
	case found && (errAddr != nil || host == "" || !isListenHost(host) || !isPort(port) || strings.Trim(port, "0") == ""):
		return "behind the @ belong an IP address or a name, and a port from 1 to 65535"
	}
	return ""
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// isToken reports whether s can stand in a header field as one word.
func isToken(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isFieldName reports whether s is a token of HTTP (RFC 9110, section 5.6.2).
func isFieldName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// hasCredentials reports whether a header field of that name may have a secret in it. What
// names a client is logged.
func hasCredentials(field string) bool {
	for word := range strings.SplitSeq(strings.ToLower(field), "-") {
		switch word {
		case "authorization", "cookie", "token", "key", "apikey", "secret", "password", "credential", "credentials", "jwt", "assertion", "signature":
			return true
		}
	}
	return false
}

// isListenHost reports whether s is nothing, an IP address, or a name: which 256.0.0.1 is
// neither.
func isListenHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil || s == "" {
		return true
	}
	last := s[strings.LastIndexByte(strings.TrimSuffix(s, "."), '.')+1:]
	return isHostName(strings.ToLower(s)) && strings.Trim(last, "0123456789.") != ""
}

func isHostName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_')
	})
}

func mask(value string) string {
	if value == "" {
		return ""
	}
	return "(set)"
}

// maskURL hides what may be a secret in a URL, even in one that cannot be parsed:
// its user info and its query. Neither may be there, but somebody may try.
func maskURL(value string) string {
	if at := strings.LastIndexByte(value, '@'); at >= 0 {
		scheme, _, _ := strings.Cut(value, "://")
		if scheme == "http" || scheme == "https" {
			scheme += "://"
		} else { // who knows what it is
			scheme = ""
		}
		value = scheme + "(hidden)" + value[at:]
	}
	value, query, _ := strings.Cut(value, "?")
	if query != "" {
		value += "?(hidden)"
	}
	return value
}
