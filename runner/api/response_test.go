package api

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// A long list is sent in parts, and is what it is in one.
func TestJSONList(t *testing.T) {
	type row struct{ Name string }
	var long []row
	for range 5000 {
		long = append(long, row{strings.Repeat("<&> ", 20)})
	}
	for _, list := range [][]row{nil, {}, long[:1], long} {
		rec := httptest.NewRecorder()
		if err := jsonList(&exchange{w: &response{ResponseWriter: rec}}, list); err != nil {
			t.Fatal(err)
		}
		var got []row
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || got == nil || !slices.Equal(got, list) {
			t.Errorf("of %d there are %d: %v", len(list), len(got), err)
		}
		if strings.Contains(rec.Body.String(), `\u00`) || strings.Count(rec.Body.String(), "\n") != 1 {
			t.Error("what is harmless is escaped, or there is more than one line")
		}
		if ct := rec.Header().Get("Content-Type"); rec.Code != 200 || ct != "application/json" {
			t.Errorf("%d, %s", rec.Code, ct)
		}
	}
	bad := []any{1, func() {}}
	if err := jsonList(&exchange{w: &response{ResponseWriter: httptest.NewRecorder()}}, bad); err == nil {
		t.Error("what cannot be encoded is no error")
	}
}
