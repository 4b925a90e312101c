package rollout

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParsePolicy(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	all := Policy{
		Parallel: Parallel{Percent: 20}, MaxFailures: 3, OnFailure: "pause", Nodes: map[string]string{"site": "x", "empty": ""}, Deadline: time.Minute,
		Window: &Window{Days: []time.Weekday{1, 0}, From: 23 * 60, To: 4 * 60, Zone: berlin},
	}
	for text, want := range map[string]Policy{
		"": DefaultPolicy(), "{}": DefaultPolicy(), "\t{\n}\n": DefaultPolicy(),
		`{"parallel":"20%","max_failures":3,"on_failure":"pause","nodes":{"site":"x","empty":""},"window":{"days":["mon","sun"],"from":"23:00","to":"04:00","zone":"Europe/Berlin"},"deadline":"1m"}`: all,
		`{"window":{}}`: {
			Parallel: Parallel{Number: 1}, OnFailure: "rollback", Deadline: DefaultDeadline,
			Window: &Window{Days: []time.Weekday{0, 1, 2, 3, 4, 5, 6}, To: 24 * 60, Zone: time.UTC},
		},
	} {
		if got, err := ParsePolicy([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func TestParsePolicyErrors(t *testing.T) {
	for text, want := range map[string]string{
		`[]`: "want a JSON object", `{`: "does not end", `{} {}`: "nothing behind", "{\"parallel\":\xff}": "UTF-8", `{"nodes":{}`: "does not end",
		`{"parallels":1}`:              "parallels: there is no such key: want one of deadline, max_failures, nodes, on_failure, parallel, window",
		`{"parallel":1,"parallel":2}`:  "parallel: is there twice",
		`{"parallel":0}`:               "parallel: want",
		`{"parallel":1.5}`:             "parallel: want",
		`{"parallel":"0%"}`:            "parallel: want",
		`{"parallel":"+5%"}`:           "parallel: want",
		`{"parallel":"101%"}`:          "parallel: want",
		`{"parallel":"5"}`:             "parallel: want",
		`{"parallel":null}`:            "parallel: want",
		`{"max_failures":-1}`:          "max_failures: want a number from 0, not -1",
		`{"on_failure":"explode"}`:     `on_failure: want rollback or pause, not "explode"`,
		`{"nodes":["a"]}`:              "nodes: want a JSON object",
		`{"nodes":{"a":1}}`:            "nodes.a: want a text, not 1",
		`{"nodes":{"":"x"}}`:           "a label",
		`{"deadline":"soon"}`:          "deadline: want",
		`{"deadline":600}`:             "deadline: want",
		`{"deadline":"48h"}`:           "deadline: want",
		`{"window":{"day":[]}}`:        "window.day: there is no such key",
		`{"window":{"days":[]}}`:       "window.days: want",
		`{"window":{"days":["Mon"]}}`:  "window.days: want",
		`{"window":{"from":"2:00"}}`:   "window.from: want",
		`{"window":{"to":"25:00"}}`:    "window.to: want",
		`{"window":{"from":"24:00"}}`:  "window.to: want another time",
		`{"window":{"zone":"Local"}}`:  "window.zone: want",
		`{"window":{"zone":"../etc"}}`: "window.zone: want",
		`{"nodes":{"` + strings.Repeat("x", MaxPolicy) + `":""}}`: "longer than 16 KiB",
	} {
		if _, err := ParsePolicy([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v", text, err)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{"", "{}", `{"parallel":"20%","window":{"days":["mon"],"from":"23:00","to":"04:00","zone":"Europe/Berlin"}}`, `{"nodes":{"a":"b"},"deadline":"1m","max_failures":1,"on_failure":"pause"}`, `{"parallel":1e9}`} {
		f.Add([]byte(s))
	}
	now := time.Date(2026, 3, 29, 1, 30, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy(data)
		if err != nil && (len(err.Error()) > 500 || !reflect.DeepEqual(p, DefaultPolicy())) {
			t.Errorf("%+v, %v", p, err)
		}
		if p.Parallel.Of(7) < 1 || p.Deadline <= 0 || p.MaxFailures < 0 {
			t.Errorf("%+v", p)
		}
		if p.Window != nil {
			if _, until := p.Window.At(now); !until.After(now) {
				t.Errorf("%+v: until %s", p.Window, until)
			}
		}
	})
}

func TestWindow(t *testing.T) {
	const layout = "2006-01-02 15:04"
	for _, tt := range []struct {
		window, at string // in the window's zone
		open       bool
		until      string
	}{
		{`{"from":"02:00","to":"04:00"}`, "2026-11-27 01:59", false, "2026-11-27 02:00"},
		{`{"from":"02:00","to":"04:00"}`, "2026-11-27 02:00", true, "2026-11-27 04:00"},
		{`{"from":"02:00","to":"04:00"}`, "2026-11-27 04:00", false, "2026-11-28 02:00"},
		{`{"from":"22:00","to":"04:00","days":["fri"]}`, "2026-11-27 21:00", false, "2026-11-27 22:00"}, // a Friday
		{`{"from":"22:00","to":"04:00","days":["fri"]}`, "2026-11-28 03:00", true, "2026-11-28 04:00"},
		{`{"from":"22:00","to":"04:00","days":["fri"]}`, "2026-11-27 03:00", false, "2026-11-27 22:00"},
		{`{"from":"22:00","to":"04:00","days":["fri"]}`, "2026-11-28 04:00", false, "2026-12-04 22:00"},
		{`{"days":["sat","sun"]}`, "2026-11-29 23:59", true, "2026-11-30 00:00"},
		{`{"to":"24:00","from":"12:00"}`, "2026-11-29 23:59", true, "2026-11-30 00:00"},
		// The clock goes forward at 02:00, and back at 03:00.
		{`{"from":"02:00","to":"04:00","zone":"Europe/Berlin"}`, "2026-03-29 01:59", false, "2026-03-29 03:00"},
		{`{"from":"02:00","to":"04:00","zone":"Europe/Berlin"}`, "2026-10-25 01:59", false, "2026-10-25 02:00"},
	} {
		p, err := ParsePolicy([]byte(`{"window":` + tt.window + `}`))
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.ParseInLocation(layout, tt.at, p.Window.Zone)
		if err != nil {
			t.Fatal(err)
		}
		open, until := p.Window.At(at.UTC())
		if got := until.In(p.Window.Zone).Format(layout); open != tt.open || got != tt.until {
			t.Errorf("%s at %s: %v until %s, want %v until %s", tt.window, tt.at, open, got, tt.open, tt.until)
		}
	}
}
