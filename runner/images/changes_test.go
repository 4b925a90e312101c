package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

func importOf(repo string) runner.ImportRequest { return runner.ImportRequest{Repo: repo} }

func TestApplyChanges(t *testing.T) {
	for _, c := range []struct {
		changes string // one a line
		want    string // fields of the configuration, as JSON
	}{
		{`CMD echo "a b" $X`, `"Cmd":["/bin/sh","-c","echo \"a b\" $X"]`},
		{`CMD ["a","b c"]`, `"Cmd":["a","b c"]`},
		{`cmd []`, `"Cmd":[]`},
		{`CMD [not json`, `"Cmd":["/bin/sh","-c","[not json"]`},
		{`ENTRYPOINT ["x"]`, `"Cmd":null,"Entrypoint":["x"]`},
		{"CMD [\"c\"]\nENTRYPOINT x", `"Cmd":["c"],"Entrypoint":["/bin/sh","-c","x"]`},
		{`ENV A=b`, `"Env":["PATH=/bin","A=b"]`},
		{`ENV A b c`, `"Env":["PATH=/bin","A=b c"]`},
		{`ENV A="b c" B='$PATH' C=d\ e D="$PATH:/x" E=${NONE:-f} F=${PATH:+g} G=\$A`, `"Env":["PATH=/bin","A=b c","B=$PATH","C=d e","D=/bin:/x","E=f","F=g","G=$A"]`},
		{`ENV PATH=/usr/bin:$PATH`, `"Env":["PATH=/usr/bin:/bin"]`},
		{`LABEL a=b "c d"="e f"`, `"Labels":{"a":"b","c d":"e f","old":"1"}`},
		{`LABEL old new`, `"Labels":{"old":"new"}`},
		{`EXPOSE 80 53/udp 8000-8002`, `"ExposedPorts":{"53/udp":{},"80/tcp":{},"8000/tcp":{},"8001/tcp":{},"8002/tcp":{}}`},
		{`USER 1000:1000`, `"User":"1000:1000"`},
		{`WORKDIR /a/../b`, `"WorkingDir":"/b"`},
		{"WORKDIR sub", `"WorkingDir":"/work/sub"`},
		{`VOLUME /a /b`, `"Volumes":{"/a":{},"/b":{}}`},
		{`VOLUME ["/a b"]`, `"Volumes":{"/a b":{}}`},
		{`STOPSIGNAL SIGQUIT`, `"StopSignal":"SIGQUIT"`},
		{`ONBUILD RUN make`, `"OnBuild":["RUN make"]`},
		{`HEALTHCHECK NONE`, `"Healthcheck":{"Test":["NONE"]}`},
		{`HEALTHCHECK --interval=5s --retries=3 CMD curl -f x`, `"Healthcheck":{"Test":["CMD-SHELL","curl -f x"],"Interval":5000000000,"Retries":3}`},
		{`HEALTHCHECK --timeout=1m CMD ["a"]`, `"Healthcheck":{"Test":["CMD","a"],"Timeout":60000000000}`},
		{"# a comment\n\nENV A=b \\\n  C=d", `"Env":["PATH=/bin","A=b","C=d"]`},
	} {
		cfg := container.Config{Env: []string{"PATH=/bin"}, Labels: map[string]string{"old": "1"}, WorkingDir: "/work", Cmd: []string{"old"}}
		before, _ := json.Marshal(cfg)
		if err := ApplyChanges(&cfg, strings.Split(c.changes, "\x00")); err != nil {
			t.Errorf("%s: %v", c.changes, err)
			continue
		}
		want := container.Config{}
		if err := json.Unmarshal(before, &want); err != nil {
			t.Fatal(err)
		}
		want.Labels = nil
		var fields map[string]any
		if err := json.Unmarshal([]byte("{"+c.want+"}"), &fields); err != nil {
			t.Fatal(err)
		}
		if _, ok := fields["Labels"]; !ok {
			want.Labels = map[string]string{"old": "1"}
		}
		if err := json.Unmarshal([]byte("{"+c.want+"}"), &want); err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal(cfg)
		if exp, _ := json.Marshal(want); !bytes.Equal(got, exp) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.changes, got, exp)
		}
	}
}

func TestBadChanges(t *testing.T) {
	double := "ENV A=xxxxxxxxxxxxxxxx" + strings.Repeat("\nENV A=$A$A", 40)
	for _, change := range []string{
		"RUN x", "FROM x", "CMD", "ENV A", "ENV =b", "ENV A=b c", `ENV A="b`, "ENV A=${", "ENV A=${B", "ENV A=${B:?c}", "EXPOSE x", "EXPOSE 80/x", "EXPOSE 9-1", "EXPOSE 99999",
		"STOPSIGNAL SIGNONE", "HEALTHCHECK CMD", "HEALTHCHECK RUN x", "HEALTHCHECK --x=1 CMD y", "HEALTHCHECK --interval=1ns CMD y", "HEALTHCHECK --retries=-1 CMD y",
		"ONBUILD  onbuild x", "ONBUILD FROM x", `VOLUME [""]`, "USER $NONE", double,
	} {
		if err := ApplyChanges(&container.Config{}, []string{change}); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%.50q: %v", change, err)
		}
	}
}

// FuzzChanges applies anything: it does not panic, or take for ever.
func FuzzChanges(f *testing.F) {
	for _, s := range []string{`ENV A="b c" B='$PATH' C=d\ e`, `LABEL "a b"=c`, `EXPOSE 80-90/udp`, `HEALTHCHECK --interval=5s CMD ["x"]`, "CMD x\\\n y", "ENV A=${A:-$A}", `ENV \`, "VOLUME [\"a\"]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cfg := container.Config{Env: []string{"PATH=/bin"}}
		if err := ApplyChanges(&cfg, []string{s}); err != nil && !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%q: %v is of no kind", s, err)
		}
	})
}
