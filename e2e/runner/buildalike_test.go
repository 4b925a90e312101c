package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// alike is what both builders do, with buildx and without. Names of images begin
// with name.
func (b *builder) alike(t *testing.T, name string) {
	t.Run("stages", func(t *testing.T) { b.stages(t, name+"stages") })
	t.Run("files", func(t *testing.T) { b.files(t, name+"files") })
	t.Run("options", func(t *testing.T) { b.options(t, name+"options") })
	t.Run("web", func(t *testing.T) {
		// The registry is a server on the machine that the build is on.
		url := "http://" + b.repository("v2/seedtest/busybox/tags/list")
		b.build(t, "-t", name+"web", "--network", "host", b.context(t, "Dockerfile", "FROM IMAGE\nADD "+url+" /tags\nRUN wget -q -O /again "+url+"\n"))
		b.prints(t, name+"web", "same", "sh", "-c", "cmp /tags /again && echo same")
	})
	t.Run("failures", func(t *testing.T) {
		b.refuses(t, "unknown instruction: FETCH", b.context(t, "Dockerfile", "FROM IMAGE\nFETCH x\n"))
		b.refuses(t, "not found", b.context(t, "Dockerfile", "FROM IMAGE\nCOPY none /\n"))
		b.refuses(t, "not found", b.context(t, "Dockerfile", "FROM IMAGE-none\n"))
		b.refuses(t, "Dockerfile", b.context(t, "f", ""))
		b.refuses(t, "seen", b.context(t, "Dockerfile", "FROM IMAGE\nRUN echo seen; exit 7\n"))
	})
}

func (b *builder) stages(t *testing.T, name string) {
	dir := b.context(t, "Dockerfile", `FROM IMAGE AS maker
ARG WORD=none
RUN echo "made $WORD" >/made
FROM IMAGE AS fails
RUN exit 9
FROM maker AS more
RUN echo more >>/made
FROM IMAGE
COPY --from=more --chmod=600 --chown=5:6 /made /made
ENTRYPOINT ["sh", "-c"]
CMD ["cat /made; stat -c '%a %u:%g' /made"]
`)
	b.build(t, "-t", name, "--build-arg", "WORD=here", "--label", "c=d", dir)
	b.prints(t, name, "made here\nmore\n600 5:6")
	b.build(t, "-t", name+"target", "--target", "maker", dir)
	b.prints(t, name+"target", "made none", "cat", "/made")
	b.refuses(t, "9", "--target", "fails", dir)
	b.refuses(t, "nowhere", "--target", "nowhere", dir)
}

// files has what a context and a Dockerfile bring.
func (b *builder) files(t *testing.T, name string) {
	b.build(t, "-t", name, b.context(t, "Dockerfile", `FROM IMAGE
COPY . /ctx
RUN <<END
echo one >/f
echo two >>/f
END
COPY <<-"END" /g
	not $HOME
END
`, ".dockerignore", "*\n!keep\nkeep/*.log\nDockerfile\n", "keep/a", "a", "keep/b.log", "b", "other", "c"))
	b.prints(t, name, "/ctx\n/ctx/keep\n/ctx/keep/a", "find", "/ctx")
	b.prints(t, name, "one\ntwo\nnot $HOME", "cat", "/f", "/g")

	dir := b.context(t, "f", "from the context", "Dockerfile", "FETCH x\n")
	b.inputs(t, "FROM IMAGE\nCOPY f /f\n", "-t", name+"stdin", "-f", "-", dir)
	b.prints(t, name+"stdin", "from the context", "cat", "/f")
	b.inputs(t, "FROM IMAGE\nRUN echo alone >/f\n", "-t", name+"alone", "-")
	b.prints(t, name+"alone", "alone", "cat", "/f")
}

func (b *builder) options(t *testing.T, name string) {
	dir := b.context(t, "Dockerfile", `FROM IMAGE
RUN grep -qw up /etc/hosts && grep -w other /etc/hosts >/hosts; df -k /dev/shm | tail -1 | awk '{print $2}' >/shm; ulimit -n >/files; ls /sys/class/net >/net
`)
	b.build(t, "-t", name, "--add-host", "other:10.1.2.3", "--add-host", "up:host-gateway", "--shm-size", "8m", "--ulimit", "nofile=123:456", "--network", "none", dir)
	b.prints(t, name, "10.1.2.3 other 8192 123 lo", "sh", "-c", "echo $(cat /hosts /shm /files /net)")
	file := filepath.Join(dir, "id")
	b.build(t, "-t", name+":1", "-t", name+":2", "--iidfile", file, b.context(t, "Dockerfile", "FROM IMAGE\nRUN true\n"))
	got, err := os.ReadFile(file)
	if want := b.says(t, "image", "inspect", "-f", "{{.Id}}", name+":2"); err != nil || string(got) != strings.TrimSpace(want) {
		t.Errorf("the ID in the file is %q, of the image %q: %v", got, want, err)
	}
}
