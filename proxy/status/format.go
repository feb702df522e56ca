package status

import (
	"fmt"
	"strings"
	"time"
)

// formatDuration returns a duration for people, rounded down.
func formatDuration(d time.Duration) string {
	switch d = max(d, 0); { // less than 0: it began after Page.Now was read
	case 0 < d && d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Truncate(time.Second/10).Seconds()) // never 60.0 s
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// formatEstimate returns a duration that nobody knows exactly.
func formatEstimate(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return "a few seconds"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds())/10*10)
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	default:
		return fmt.Sprintf("%d h", int(d.Hours()))
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

// formatCount returns a number with a comma behind each thousand.
func formatCount(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// formatAgent returns what a User-Agent begins with: the program and its version.
func formatAgent(agent string) string {
	program, _, _ := strings.Cut(agent, " ")
	if strings.HasPrefix(program, "Mozilla/") { // as all of them say
		return "browser"
	}
	return shorten(program, agentLimit)
}

// formatRate returns a number of tokens in a second.
func formatRate(rate float64) string {
	if rate >= 10 {
		return formatCount(int64(rate+.5)) + " tokens/s"
	}
	return fmt.Sprintf("%.1f tokens/s", rate)
}
