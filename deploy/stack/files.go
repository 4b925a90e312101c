package stack

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
)

// files are the configs and secrets of a service. Their contents are read now: what
// is deployed does not change with the files.
func (t *translation) files(p keys, s types.ServiceConfig) []deploy.File {
	var out []deploy.File
	for i, c := range s.Configs {
		at := p.at("configs").index(i)
		def := types.FileObjectConfig(t.project.Configs[c.Source])
		out = append(out, t.file(at, "/", keys{"configs", c.Source}, def, types.FileReferenceConfig(c)))
	}
	for i, c := range s.Secrets {
		at := p.at("secrets").index(i)
		def := types.FileObjectConfig(t.project.Secrets[c.Source])
		f := t.file(at, "/run/secrets", keys{"secrets", c.Source}, def, types.FileReferenceConfig(c))
		f.Secret = true
		out = append(out, f)
	}
	t.checkTargets(p, s, out)
	return out
}

// checkTargets refuses two things at the same place of a container.
func (t *translation) checkTargets(p keys, s types.ServiceConfig, files []deploy.File) {
	targets := map[string]string{}
	for _, v := range s.Volumes {
		targets[path.Clean(v.Target)] = "a volume"
	}
	for _, m := range s.Tmpfs {
		target, _, _ := strings.Cut(m, ":")
		targets[path.Clean(target)] = "a tmpfs"
	}
	for _, f := range files {
		if other, ok := targets[f.Target]; ok {
			t.addf(p, "%s and %s have the same target %s", other, f.Name, f.Target)
		}
		targets[f.Target] = f.Name
	}
}

func (t *translation) file(p keys, dir string, from keys, def types.FileObjectConfig, ref types.FileReferenceConfig) deploy.File {
	f := deploy.File{
		Name:   ref.Source,
		Target: ref.Target,
		UID:    t.number(p.at("uid"), ref.UID),
		GID:    t.number(p.at("gid"), ref.GID),
		Mode:   0o444,
	}
	switch {
	case f.Target == "":
		f.Target = path.Join(dir, ref.Source)
	case !path.IsAbs(f.Target):
		f.Target = path.Join(dir, f.Target)
	}
	if f.Target = path.Clean(f.Target); f.Target == "/" {
		t.addf(p.at("target"), "a file cannot be in the place of the root")
	}
	if ref.Mode != nil {
		if f.Mode = os.FileMode(*ref.Mode); *ref.Mode < 0 || *ref.Mode > 0o777 {
			t.addf(p.at("mode"), "%s is no mode of a file", ref.Mode)
		}
	}
	content, ok := t.content(from, def)
	if ok {
		f.Content = digest.FromBytes(content)
		t.contents[f.Content] = content
	}
	return f
}

// content is what a config or a secret has. What is wrong is told where it is defined.
func (t *translation) content(p keys, def types.FileObjectConfig) ([]byte, bool) {
	switch {
	case bool(def.External):
		t.unsupportedf(p.at("external"), "there is no store of %s; say file, or environment", p[0])
	case def.Environment != "":
		value, ok := t.project.Environment[def.Environment]
		if !ok && !t.local {
			t.addf(p.at("environment"), "a node has no variables for a published Compose file; say file, with an absolute path")
			return nil, false
		}
		if !ok {
			t.addf(p.at("environment"), "the variable %s is not set", def.Environment)
		}
		return []byte(value), ok
	case def.File != "":
		if !filepath.IsAbs(def.File) {
			t.addf(p.at("file"), "%q is relative to the Compose file, and a published one is in no directory", def.File)
			return nil, false
		}
		if content, ok := t.read[def.File]; ok {
			return content, true
		}
		content, err := readFile(def.File)
		if err != nil {
			t.addf(p.at("file"), "%v", err)
			return nil, false
		}
		t.read[def.File] = content
		return content, true
	default:
		if len(def.Content) > maxFile {
			t.addf(p.at("content"), "%d bytes are more than the %d that are allowed", len(def.Content), maxFile)
		}
		return []byte(def.Content), true
	}
	return nil, false
}

// number is the ID of a user or a group: files are made before the container's own
// list of names is there.
func (t *translation) number(p keys, s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 31)
	if err != nil {
		t.addf(p, "%q is no number", s)
	}
	return int(n)
}
