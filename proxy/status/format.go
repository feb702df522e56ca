package status

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// formatDuration returns a duration for people, rounded down.
func formatDuration(d time.Duration) string {
	switch d = max(d, 0); { // less than 0: it began after Page.Now was read
	case d == 0:
		return "0 s"
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Truncate(time.Second/10).Seconds()) // never 10.0 s
	case d < 100*time.Second:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// formatCountdown returns how long something will take, in seconds that are not over.
func formatCountdown(d time.Duration) string {
	if d = d.Truncate(time.Second) + time.Second; d < 100*time.Second {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return formatDuration(d)
}

// formatEstimate returns a duration that nobody knows exactly.
func formatEstimate(s Span) string {
	d := time.Duration(s)
	if d < 10*time.Second {
		return "a few seconds"
	}
	return "about " + formatCoarse(d)
}

// formatAgo returns how long ago something was.
func formatAgo(d time.Duration) string {
	if d < time.Second {
		return "just now"
	}
	return formatCoarse(d) + " ago"
}

// formatCoarse returns a duration in one unit.
func formatCoarse(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return formatDuration(d)
	case d < 10*time.Second:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds())/10*10) // calm: it is read anew each second
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// formatSize returns a number of bytes for people, rounded down.
func formatSize(n int64) string {
	switch {
	case n < 1e3:
		return fmt.Sprintf("%d bytes", n)
	case n < 1e6:
		return fmt.Sprintf("%d.%d kB", n/1e3, n%1e3/1e2)
	case n < 1e9:
		return fmt.Sprintf("%d.%d MB", n/1e6, n%1e6/1e5)
	default:
		return fmt.Sprintf("%d.%d GB", n/1e9, n%1e9/1e8)
	}
}

// unbroken returns text that no line ends within.
func unbroken(text string) string { return strings.ReplaceAll(text, " ", "\u00a0") }

// shorten returns text, or its first n characters and an ellipsis if it has more.
func shorten(text string, n int) string {
	for i := range text {
		if n == 0 {
			return text[:i] + "…"
		}
		n--
	}
	return text
}

// formatCount returns a number with a comma before each three digits.
func formatCount(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// formatTokens returns a number of tokens.
func formatTokens(n int64) string {
	if n == 1 {
		return "1 token"
	}
	return formatCount(n) + " tokens"
}

// formatRate returns how many tokens are made in a second.
func formatRate(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f tokens/s", rate)
	}
	return formatCount(int64(rate)) + " tokens/s"
}

// shortID returns as much of an id as tells it from others.
func shortID(id string) string {
	if len(id) <= 12 {
		return id
	}
	return shorten(id, 8)
}

// shortAgent returns a program and its version out of a User-Agent, which begins with
// them, but for browsers.
func shortAgent(agent string) string {
	fields := strings.Fields(agent)
	if len(fields) == 0 {
		return ""
	}
	short := fields[0]
	if len(fields) > 1 && '0' <= fields[1][0] && fields[1][0] <= '9' { // OpenAI/Python 1.40.0
		short += " " + fields[1]
	}
	if strings.HasPrefix(short, "Mozilla/") {
		for _, browser := range []string{"Firefox/", "Edg/", "Chrome/", "Safari/"} { // which name those after them
			if i := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, browser) }); i >= 0 {
				short = fields[i]
				break
			}
		}
	}
	return shorten(short, agentLimit)
}
