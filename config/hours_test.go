package config

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // also where the machine has no zones
)

// TestUntil: hours begin and end when the clock on the wall says so, whatever day it is,
// also on those of 23 and of 25 hours.
func TestUntil(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	const night, week = "22:00-07:00", "Mon-Fri 09:00-17:00, 16:30-18:00"
	for _, test := range []struct{ name, hours, at, want string }{
		{"before it begins", night, "2026-11-27T21:59:59.9+01:00", ""},
		{"its first moment", night, "2026-11-27T22:00:00+01:00", "2026-11-28T07:00:00+01:00"},
		{"over midnight", night, "2026-11-28T06:59:59.9+01:00", "2026-11-28T07:00:00+01:00"},
		{"its end", night, "2026-11-28T07:00:00+01:00", ""},
		{"over midnight, of one day", "Fri 22:00-07:00", "2026-11-28T01:00:00+01:00", "2026-11-28T07:00:00+01:00"},
		{"over midnight, of the day before", "Fri 22:00-07:00", "2026-11-27T01:00:00+01:00", ""},
		{"over the end of the week", "Sat 22:00-07:00", "2026-11-29T06:00:00+01:00", "2026-11-29T07:00:00+01:00"},
		{"one behind the other is one", week, "2026-11-27T09:00:00+01:00", "2026-11-27T18:00:00+01:00"},
		{"another day", week, "2026-11-28T10:00:00+01:00", ""},
		{"every day", week, "2026-11-28T16:45:00+01:00", "2026-11-28T18:00:00+01:00"},
		{"days over the end of the week", "Sat-Mon 00:00-24:00", "2026-11-28T10:00:00+01:00", "2026-12-01T00:00:00+01:00"},
		{"a minute of the week is free", "00:00-12:00,12:01-24:00,Sun-Fri 12:00-12:01", "2026-11-28T12:01:00+01:00", "2026-12-05T12:00:00+01:00"},
		{"by the clock of the zone", night, "2026-11-27T21:30:00Z", "2026-11-28T07:00:00+01:00"},

		// 02:00 to 03:00 is left out on 29 March, and comes twice on 25 October.
		{"a night of 8 hours", night, "2026-03-28T22:00:00+01:00", "2026-03-29T07:00:00+02:00"},
		{"a night of 10 hours", night, "2026-10-24T22:00:00+02:00", "2026-10-25T07:00:00+01:00"},
		{"ends in the hour that is left out", "22:00-02:30", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"},
		{"begins in it, before", "02:30-07:00", "2026-03-29T01:59:59+01:00", ""},
		{"begins in it", "02:30-07:00", "2026-03-29T03:00:00+02:00", "2026-03-29T07:00:00+02:00"},
		{"is all in it", "02:15-02:45", "2026-03-29T03:00:00+02:00", ""},
		{"the hour that comes twice, before it", "01:00-02:30", "2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00"},
		{"the hour that comes twice, between", "01:00-02:30", "2026-10-25T02:45:00+02:00", ""},
		{"the hour that comes twice, again", "01:00-02:30", "2026-10-25T02:10:00+01:00", "2026-10-25T02:30:00+01:00"},
	} {
		h, err := parseHours(test.hours)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339Nano, test.at)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if end := h.until(at.In(berlin)); !end.IsZero() {
			got = end.Format(time.RFC3339)
		}
		if got != test.want {
			t.Errorf("%s: %s at %s: got %q; want %q", test.name, test.hours, test.at, got, test.want)
		}
	}
}

// TestZone: where hours go by the clock, a zone that package time does not know is told,
// which would be UTC otherwise.
func TestZone(t *testing.T) {
	for tz, good := range map[string]bool{
		"": true, "UTC": true, "Europe/Berlin": true, ":Europe/Berlin": true, "/etc/localtime": true,
		"Europe/Nowhere": false, "CET-1CEST,M3.5.0,M10.5.0/3": false, "Berlin": false,
	} {
		_, err := Load(env{"FOREMAN_QUIET": "22:00-07:00", "TZ": tz}.get)
		if (err == nil) != good || !good && !strings.HasPrefix(err.Error(), `TZ="`+tz+`": expected, for FOREMAN_QUIET, a time zone's name`) {
			t.Errorf("TZ=%q: got %v; good %t", tz, err, good)
		}
		if _, err := Load(env{"TZ": tz}.get); err != nil {
			t.Errorf("TZ=%q without FOREMAN_QUIET: %v", tz, err)
		}
	}
}
