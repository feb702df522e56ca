package main

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A row has a label, and a cell for each column.
func printRow(label string, columns []*column, cell func(*column) string) {
	fmt.Printf("| %s |", label)
	for _, c := range columns {
		fmt.Printf(" %s |", cell(c))
	}
	fmt.Println()
}

func printHead(corner string, columns []*column) {
	printRow(corner, columns, func(c *column) string { return c.name })
	printRow("---", columns, func(*column) string { return "---" })
}

// printFigures prints what was measured.
func printFigures(size size, columns []*column) {
	row := func(label string, cell func(*column) string) { printRow(label, columns, cell) }
	gateRow := func(label string, cell func(*column) string) {
		row(label, func(c *column) string {
			if c.noGate {
				return "no gate"
			}
			return cell(c)
		})
	}
	printHead("", columns)
	row("start to first answer; memory then", func(c *column) string {
		return fmt.Sprintf("%d ms; %.1f MB", c.ready.Milliseconds(), float64(c.idle)/1024)
	})
	for _, n := range size.embeds {
		row(fmt.Sprintf("%d embeds at once: rate, p50, p99", n), func(c *column) string {
			e := median(c.embeds[n])
			return fmt.Sprintf("%.0f/s, %s, %s", e.rate, inUnits(e.p50), inUnits(e.p99)) + failed(int(e.failed))
		})
	}
	for _, n := range size.queued {
		gateRow(fmt.Sprintf("%d chats queued: memory of one; target idle between two p50, p99", n), func(c *column) string {
			return fmt.Sprintf("%.1f KB; %s", c.queues[n][0].kilobytes, quantiles(idle(c.queues[n])))
		})
	}
	gateRow(fmt.Sprintf("%d clients that keep their connections: target idle between two chats p50, p99", keepers), func(c *column) string {
		return quantiles(together(c.kept))
	})
	row("a streamed word's way: p50, p99", func(c *column) string {
		return quantiles(together(c.late)) + failed(c.lost)
	})
	row("load of the machine meanwhile", func(c *column) string {
		return fmt.Sprintf("%.2f to %.2f", slices.Min(c.loads), slices.Max(c.loads))
	})
}

// printRatios prints how many times as large the first column's figures are as those
// of each other one: the median of all times both were measured, the least and the most.
func printRatios(size size, columns []*column) {
	first, others := columns[0], columns[1:]
	printHead(first.name+", compared with", others)
	row := func(label string, figures func(*column) []float64) {
		printRow(label, others, func(c *column) string {
			ours, theirs := figures(first), figures(c)
			if len(theirs) == 0 {
				return "no gate"
			}
			var ratios []float64
			for i := range ours {
				ratios = append(ratios, ours[i]/theirs[i])
			}
			slices.Sort(ratios)
			return fmt.Sprintf("%.2f (%.2f to %.2f)", ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
		})
	}
	for _, n := range size.embeds {
		row(fmt.Sprintf("%d embeds at once: rate", n), func(c *column) (all []float64) {
			for _, round := range c.embeds[n] {
				all = append(all, round.rate)
			}
			return all
		})
	}
	for _, q := range []float64{.5, .99} {
		row(fmt.Sprintf("%d clients that keep their connections: target idle between two chats p%.0f", keepers, 100*q), func(c *column) []float64 {
			return each(c.kept, q)
		})
	}
	for _, q := range []float64{.5, .99} {
		row(fmt.Sprintf("a streamed word's way: p%.0f", 100*q), func(c *column) []float64 {
			return each(c.late, q)
		})
	}
}

// each returns a quantile of each list of times, which are sorted.
func each(lists [][]time.Duration, q float64) (all []float64) {
	for _, times := range lists {
		all = append(all, quantile(times, q).Seconds())
	}
	return all
}

// together returns the times of all lists, sorted.
func together(lists [][]time.Duration) []time.Duration {
	return slices.Sorted(slices.Values(slices.Concat(lists...)))
}

func quantiles(sorted []time.Duration) string {
	return inUnits(quantile(sorted, .5)) + ", " + inUnits(quantile(sorted, .99))
}

func failed(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d failed", n)
}

func inUnits(d time.Duration) string {
	if d < 10*time.Millisecond {
		return strconv.FormatInt(d.Microseconds(), 10) + " µs"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
}
