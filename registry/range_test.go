package registry

import (
	"errors"
	"testing"
)

func TestParseRange(t *testing.T) {
	for _, c := range []struct {
		in   string
		size int64
		want span
	}{
		{"bytes=0-", 10, span{0, 10, true}},
		{"bytes=3-5", 10, span{3, 3, true}},
		{"bytes=3-99", 10, span{3, 7, true}},
		{"bytes=-3", 10, span{7, 3, true}},
		{"bytes=-99", 10, span{0, 10, true}},
		{"bytes=9-9", 10, span{9, 1, true}},
		{"bytes=0-0,2-3", 10, span{0, 10, false}},
		{"lines=1-2", 10, span{0, 10, false}},
		{"bytes=x-y", 10, span{0, 10, false}},
		{"bytes=", 10, span{0, 10, false}},
		{"bytes=--1", 10, span{0, 10, false}},
		{"bytes=99999999999999999999-", 10, span{0, 10, false}},
	} {
		got, err := parseRange(c.in, c.size)
		if err != nil || got != c.want {
			t.Errorf("parseRange(%q, %d) = %+v, %v, want %+v", c.in, c.size, got, err, c.want)
		}
	}
	for _, s := range []string{"bytes=10-", "bytes=5-3", "bytes=-0", "bytes=10-20"} {
		if _, err := parseRange(s, 10); !errors.Is(err, ErrRangeUnsatisfiable) {
			t.Errorf("parseRange(%q): %v", s, err)
		}
	}
	if _, err := parseRange("bytes=0-", 0); !errors.Is(err, ErrRangeUnsatisfiable) {
		t.Errorf("a range of nothing: %v", err)
	}
}

func TestParseChunk(t *testing.T) {
	for in, want := range map[string]Chunk{
		"": {}, "0-0": {0, 0, true}, "5-10": {5, 10, true}, "bytes 5-10": {5, 10, true}, "bytes 5-10/20": {5, 10, true}, "5-10/*": {5, 10, true},
	} {
		if got, err := parseChunk(in); err != nil || got != want {
			t.Errorf("parseChunk(%q) = %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"5", "5-", "-5", "10-5", "a-b", "+1-2", " 1-2", "1- 2", "0-99999999999999999999", "1-2-3"} {
		if got, err := parseChunk(in); !errors.Is(err, ErrRangeInvalid) {
			t.Errorf("parseChunk(%q) = %+v, %v", in, got, err)
		}
	}
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-", "bytes=-5", "bytes=1-2", "bytes=1-2,3-4", "5-10", "bytes 0-1/2", "bytes=99999999999999999-9", "bytes= 1-2"} {
		f.Add(s, int64(100))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 0 {
			return
		}
		p, err := parseRange(s, size)
		if err == nil && (p.off < 0 || p.n < 0 || p.off+p.n > size || p.partial && p.n == 0 || !p.partial && p.n != size) {
			t.Errorf("parseRange(%q, %d) = %+v", s, size, p)
		}
		c, err := parseChunk(s)
		if err == nil && c.Known && (c.First < 0 || c.Last < c.First) {
			t.Errorf("parseChunk(%q) = %+v", s, c)
		}
	})
}
