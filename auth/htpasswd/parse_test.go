package htpasswd

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	hashA = "$2y$05$80UdH59LQEzmqy.7.GikRunapddmnlPGVE0H9Jh8ACrUyNMekiX3i"
	hashB = "$2y$05$bpxyjhA0AdVZlxJA1fZjTuEZ1wZu0q1Xh5oo2T82ggRlqNBkvs.y2"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, file string
		users      int
		err        string // what the error holds; empty for none
	}{
		{"nothing", "", 0, ""},
		{"one", "a:" + hashA + "\n", 1, ""},
		{"no line end", "a:" + hashA, 1, ""},
		{"comments, empty lines, blanks", "# x:y\n\n \t\n  a:" + hashA + " \r\n\r\n#\nb:" + hashB + "\n", 2, ""},
		{"versions", "a:$2a" + hashA[3:] + "\nb:$2b" + hashA[3:] + "\nc:" + hashA, 3, ""},
		{"names", "Ä b@c/d.e-f:" + hashA, 1, ""},
		{"costs", "a:$2y$04" + hashA[6:] + "\nb:$2y$15" + hashA[6:], 2, ""},
		{"twice", "a:" + hashA + "\n\na:" + hashB, 0, `3: "a" is there twice`},
		{"no colon", "# a\nsecret\n", 0, "2: want user:hash"},
		{"no name", ":" + hashA, 0, "1: want a user"},
		{"long name", strings.Repeat("a", 256) + ":" + hashA, 0, "1: want a user"},
		{"NUL", "a\x00b:" + hashA, 0, "1: want a user"},
		{"byte order mark", "\ufeffa:" + hashA, 0, "1: want a user"},
		{"not UTF-8", "a\xff:" + hashA, 0, "1: want a user"},
		{"no hash", "a:\n", 0, "htpasswd -B"},
		{"MD5", "a:$apr1$7ARZMtuH$2sCi7FOviGo7O8tfzAAKF0", 0, `1: "a": its password is not hashed by bcrypt`},
		{"SHA-1", "a:{SHA}Ve878e5lOgwSjWid5/VhR4gReac=", 0, "htpasswd -B"},
		{"crypt", "a:P6q65mlJueZ3U", 0, "htpasswd -B"},
		{"SHA-512", "a:$6$PI6DAwLzOKB5K79T$Cf7Gf47kZqnFK5Jrz2HGPmrFeylwrK7eMtNIsEF9svCHZ2w2", 0, "htpasswd -B"},
		{"plain text", "a:" + strings.Repeat("s", 60), 0, "htpasswd -B"},
		{"broken version", "a:$2x" + hashA[3:], 0, "htpasswd -B"},
		{"cut", "b:" + hashB + "\na:" + hashA[:59], 0, "2: \"a\": its bcrypt hash is not whole"},
		{"more behind it", "a:" + hashA + ":x", 0, "not whole"},
		{"alphabet", "a:" + hashA[:30] + "!" + hashA[31:], 0, "not whole"},
		{"cost 3", "a:$2y$03" + hashA[6:], 0, "cost 3"},
		{"cost 16", "a:$2y$16" + hashA[6:], 0, "cost 16"},
		{"cost 31", "a:$2y$31" + hashA[6:], 0, "cost 31"},
		{"no cost", "a:$2y$+5" + hashA[6:], 0, "not whole"},
	} {
		t.Run(c.name, func(t *testing.T) {
			users, err := parse([]byte(c.file))
			if c.err == "" && (err != nil || len(users) != c.users) {
				t.Fatalf("%d users, %v; want %d", len(users), err, c.users)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("error %v, want %s", err, c.err)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), hashA[7:40])) {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestParseMany(t *testing.T) {
	file := manyUsers(100_000)
	start := time.Now()
	users, err := parse(file)
	if err != nil || len(users) != 100_000 {
		t.Fatalf("%d users, %v", len(users), err)
	}
	// It takes a tenth of a second where nothing else runs.
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func manyUsers(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "user-%d:%s%06d%s\n", i, hashA[:20], i, hashA[26:])
	}
	return []byte(b.String())
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "a:" + hashA, "# c\n\nb:" + hashB + "\r\n", "a:$apr1$7ARZMtuH$2sCi7FOviGo7O8tfzAAKF0", "a:" + hashA + "\na:" + hashA,
		":", "a", "a:$2y$99" + hashA[6:], "\x00:" + hashA,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		users, err := parse(data)
		if err != nil {
			if users != nil {
				t.Error("users beside an error")
			}
			return
		}
		// What was read is read again from what it says.
		var b strings.Builder
		for name, u := range users {
			if name == "" || len(u.hash) != hashSize || strings.ContainsAny(name, ":\n\x00") {
				t.Fatalf("user %q, hash of %d bytes", name, len(u.hash))
			}
			b.WriteString(name + ":" + u.hash + "\n")
		}
		again, err := parse([]byte(b.String()))
		if err != nil || len(again) != len(users) {
			t.Fatalf("read again: %d users for %d, %v", len(again), len(users), err)
		}
	})
}
