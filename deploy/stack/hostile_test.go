package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// bomb is YAML whose aliases come to ten to the power of n elements.
func bomb(n int) string {
	var b strings.Builder
	b.WriteString("name: x\nx-0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n")
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "x-%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	fmt.Fprintf(&b, "services: {web: {image: web, command: *a%d}}\n", n-1)
	return b.String()
}

// extendsBomb has n services, each of which extends the one before and doubles a list.
func extendsBomb(n int) string {
	var b strings.Builder
	b.WriteString("name: x\nservices:\n  s0: {image: a, labels: {a: b}}\n")
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "  s%d: {extends: s%d}\n", i, i-1)
	}
	return b.String()
}

func many(n int, format string) string {
	var b strings.Builder
	b.WriteString("name: x\nservices:\n")
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestHostile loads what somebody publishes who means harm: it is refused or loaded
// soon, and with little memory.
func TestHostile(t *testing.T) {
	for _, test := range []struct {
		name, data string
		want       string // of the error; empty: it is loaded
	}{
		{"empty", "", "empty compose file"},
		{"null", "null", "top-level object must be a mapping"},
		{"list", "[a]", "top-level object must be a mapping"},
		{"text", "text", "top-level object must be a mapping"},
		{"bytes", "\x00\xff\xfe", "control characters are not allowed"},
		{"too much", strings.Repeat("#", MaxSize+1), "are too much for a Compose file"},
		{"nearly too much", "name: x\nservices: {a: {image: a}}\n#" + strings.Repeat("x", MaxSize-100), ""},
		{"bomb of aliases", bomb(12), "more than 200000 values"},
		{"small bomb of aliases", bomb(4), "excessive aliasing"},
		{"deep", "name: x\nservices: " + strings.Repeat("[", 100_000), "exceeded max depth"},
		{"deep but valid", "name: x\nx-deep: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\nservices: {a: {image: a}}", "deep in each other"},
		{"deep mapping", "name: x\nservices: {a: {image: a, x-a: " + strings.Repeat("{a: ", 3000) + "1" + strings.Repeat("}", 3000) + "}}", "deep in each other"},
		{"alias to itself", "name: x\nservices: &a {web: *a}", "an alias that contains itself"},
		{"merge of itself", "name: x\nservices: {a: &a {image: a, <<: *a}}", "an alias that contains itself"},
		{"chain of extends", extendsBomb(500), ""},
		{"circle of extends", "name: x\nservices: {a: {extends: b}, b: {extends: a}}", "Circular reference"},
		{"circle of needs", "name: x\nservices: {a: {image: a, depends_on: [b]}, b: {image: b, depends_on: [a]}}", "dependency cycle detected"},
		{"ports", "name: x\nservices: {a: {image: a, ports: ['1-65535:1-65535']}}", "has more than 1000 ports"},
		{"exposed ports", "name: x\nservices: {a: {image: a, expose: ['1-65535', '1-65535/udp', '1-65535/sctp']}}", ""},
		{"ports one by one", "name: x\nservices: {a: {image: a, ports: [" + strings.Repeat("'1-999:1-999/udp','1001-1999:1001-1999',", 100) + "]}}", "ports"},
		{"replicas", "name: x\nservices: {a: {image: a, deploy: {replicas: 1000000000}}}", "1000000000 replicas"},
		{"number beyond all", "name: x\nservices: {a: {image: a, scale: 99999999999999999999999}}", "scale"},
		{"variables", "name: x\nservices: {a: {image: a, hostname: '" + strings.Repeat("${a:-", 5000) + strings.Repeat("}", 5000) + "'}}", "more than 50 others in its default"},
		{"variables after each other", "name: x\nservices: {a: {image: a, hostname: '" + strings.Repeat("${a:-}", 100_000) + "'}}", ""},
		{"devices as files", "name: x\nservices: {a: {image: a, configs: [c]}}\nconfigs: {c: {file: /dev/zero}}", "/dev/zero is not a regular file"},
		{"what is read for ever", "name: x\nservices: {a: {image: a, secrets: [c]}}\nsecrets: {c: {file: /proc/kmsg}}", "/proc/kmsg is not a regular file"},
		{"many services that are refused", many(500, "  s%d: {image: a, cpu_count: 1}\n"), "and 400 more"},
		{"many routes", "name: x\nservices: {a: {image: a, labels: {berth.edge.port: '1', berth.edge.host: 'a" + strings.Repeat(",a", 200_000) +
			"', berth.edge.path: '/" + strings.Repeat(",/", 200_000) + "'}}}", "200001 are more than the 100"},
		{"many services", many(20_000, "  s%d: {image: a}\n"), "20000 services are more than the 1000"},
		{"document after document", strings.Repeat("name: x\nservices: {a: {image: a}}\n---\n", 500) + "name: x", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := FromYAML(t.Context(), "hostile", []byte(test.data))
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("it is refused: %.300s", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("the error is %.300v, and has no %q", err, test.want)
			case err != nil && !errors.Is(err, runner.ErrInvalid):
				t.Errorf("the error is of no kind: %v", err)
			}
			t.Logf("%s, %d MB", took, (after.TotalAlloc-before.TotalAlloc)>>20)
			if took > 10*time.Second {
				t.Errorf("it has taken %s", took)
			}
		})
	}
}

// TestHostileFiles loads such files from a directory, where they may name others: none
// takes long.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, data, want string }{
		{"bomb of aliases", bomb(12), "compose.yaml:7: more than 200000 values"},
		{"deep", "name: x\nservices: {a: {image: a, x-a: " + strings.Repeat("{a: ", 3000) + "1" + strings.Repeat("}", 3000) + "}}", "deep in each other"},
		{"merge of itself", "name: x\nservices: {a: &a {image: a, <<: *a}}", "compose.yaml:2: an alias that contains itself"},
		{"ports", "name: x\nservices:\n  a: {image: a, ports: ['1-65535:1-65535']}", "compose.yaml:3: services.a.ports[0]: 1-65535:1-65535 has more than 1000 ports"},
		{"many services", many(5000, "  s%d: {image: a}\n"), "compose.yaml:2: services: 5000 services are more than the 1000"},
		{"a file that includes itself", "name: x\ninclude: [compose.yaml]\nservices: {a: {image: a}}", "compose.yaml:2: include: include cycle detected"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(test.data), 0o600); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, err := Load(t.Context(), Options{WorkingDir: dir})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %.300v, and has no %q", err, test.want)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it has taken %s", took)
			}
		})
	}
}

// TestHuge has a config that is more than may be deployed.
func TestHuge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"compose.yaml": "name: x\nservices: {a: {image: a, configs: [c]}}\nconfigs: {c: {file: huge}}",
		"huge":         strings.Repeat("x", maxFile+1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(t.Context(), Options{WorkingDir: dir})
	want := fmt.Sprintf("%s/compose.yaml:3: configs.c.file: %s/huge has %d bytes, and %d are allowed", dir, dir, maxFile+1, maxFile)
	if err == nil || err.Error() != want {
		t.Errorf("the error is %v, and not %s", err, want)
	}
	_, err = Load(t.Context(), Options{WorkingDir: t.TempDir()})
	if !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("without a Compose file the error is %v", err)
	}
	_, err = Load(t.Context(), Options{Files: []string{filepath.Join(dir, "none.yaml")}})
	if err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("without the Compose file that is asked for the error is %v", err)
	}
}

// TestNothing has neither content nor a name: no file is looked for.
func TestNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte("name: x\nservices: {a: {image: a}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FromYAML(t.Context(), file, nil); err == nil || !strings.Contains(err.Error(), "empty compose file") {
		t.Errorf("the error is %v", err)
	}
}

// TestFIFO has a secret that nobody writes.
func TestFIFO(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := FromYAML(t.Context(), "fifo", []byte("name: x\nservices: {a: {image: a, secrets: [c]}}\nsecrets: {c: {file: "+fifo+"}}"))
	if want := "fifo:3: secrets.c.file: " + fifo + " is not a regular file"; err == nil || err.Error() != want {
		t.Errorf("the error is %v, and not %s", err, want)
	}
}

// FuzzFromYAML: what is loaded is loaded again as the same, and nothing panics.
func FuzzFromYAML(f *testing.F) {
	for _, seed := range []string{
		"", "name: x\nservices: {a: {image: a}}", bomb(3), extendsBomb(3),
		"name: x\nservices: {a: {image: a, ports: ['80:80'], x-berth: {strategy: canary, steps: [{weight: 1, pause: 1s}]}}}",
		"name: x\nx-berth: {keep: 1, rollout: {parallel: 5%, window: {from: '01:00', to: '02:00'}}}\nservices: {a: {image: a, deploy: {placement: {}}}}",
		"name: x\nservices: {a: {image: a, volumes: ['/a:/b', 'c:/d', {type: tmpfs, target: /x}], configs: [c], labels: [berth.edge.host=a.b, berth.edge.port=1]}}\nvolumes: {c: }\nconfigs: {c: {content: $$a}}",
		"name: x\nservices: {a: &a {image: a}, b: {<<: *a, depends_on: [a], links: ['a:b']}}",
		"services: [", "name: x\nservices: {a: {image: a, environment: [A, B=$C, 'D=${E:-f}']}}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := FromYAML(t.Context(), "fuzz", data)
		if err != nil {
			return
		}
		again, err := FromYAML(t.Context(), "fuzz", []byte(l.Stack.Source))
		if err != nil {
			t.Fatalf("what was resolved is refused: %v\n%s", err, l.Stack.Source)
		}
		if got, want := compact(t, again.Stack), compact(t, l.Stack); got != want {
			t.Errorf("what was resolved is\n%s\nand not\n%s", got, want)
		}
	})
}
