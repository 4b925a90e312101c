package classic_test

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/runner/api/classic"
)

// TestNeeded counts the steps: those of stages that the target does not need are
// none.
func TestNeeded(t *testing.T) {
	stage := "other"
	for dockerfile, steps := range map[string]string{
		"FROM x AS a\nRUN y\nFROM x\nRUN --mount=type=bind,from=a,target=/a y\n": "4",
		"FROM x AS a\nRUN y\nFROM x\nRUN --mount=type=cache,target=/a y\n":       "2",
		"FROM x AS A\nRUN y\nFROM a\n":                                           "3",
		"FROM x\nRUN y\nFROM x\nCOPY --from=0 a b\n":                             "4",
		"FROM x\nRUN y\nFROM x\nCOPY --from=image a b\n":                         "2",
		"FROM x\nRUN y\nFROM x\nCOPY --from=7 a b\n":                             "2",
		"ARG B=none\nFROM x AS other\nRUN y\nFROM $B\n":                          "4",
		"ARG C=other\nFROM x AS other\nRUN y\nFROM ${C}\n":                       "4",
		"ARG C=ot\nARG D=${C}her\nFROM x AS other\nRUN y\nFROM $D\n":             "5",
		"FROM x AS other\nRUN y\nFROM ${B:-}\n":                                  "1",
		"FROM a AS a\nFROM a AS b\n":                                             "2",
	} {
		b := begin(t, dockerfile, classic.Options{Args: map[string]*string{"B": &stage}})
		if got := b.text.String(); !strings.HasPrefix(got, "Step 1/"+steps+" : ") {
			t.Errorf("%q: %q, want %s steps", dockerfile, got, steps)
		}
	}
}

// TestLarge has a Dockerfile of many stages, which are not looked through for each
// other.
func TestLarge(t *testing.T) {
	var b strings.Builder
	b.WriteString("FROM x AS s\n")
	for range 20_000 {
		b.WriteString("FROM s AS s\nCOPY --from=s a b\n")
	}
	start := time.Now()
	if _, err := classic.Parse("Dockerfile", []byte(b.String()), classic.Options{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
