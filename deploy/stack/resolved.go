package stack

import (
	"bytes"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"go.yaml.in/yaml/v3"
)

// Resolved returns the whole Compose file with variables replaced, and what it
// includes and extends merged into it: what was deployed, and nothing else. It has no
// contents of secrets. A dollar sign is written as $$.
func (l *Loaded) Resolved() ([]byte, error) {
	return l.marshal(l.plain())
}

// plain returns the project without what is not deployed.
func (l *Loaded) plain() *types.Project {
	p := *l.project
	p.Services = types.Services{}
	for name, s := range l.project.Services {
		s.Profiles, s.Build, s.Develop, s.Attach = nil, nil, nil, nil
		s.EnvFiles, s.LabelFiles = nil, nil
		s.SecurityOpt = slices.Clone(s.SecurityOpt)
		for i, opt := range s.SecurityOpt {
			if file, ok := profileOf(opt); ok && !filepath.IsAbs(file) {
				s.SecurityOpt[i] = "seccomp=" + l.project.RelativePath(file)
			}
		}
		p.Services[name] = s
	}
	return &p
}

// profileOf returns the file of a seccomp profile.
func profileOf(opt string) (string, bool) {
	for _, prefix := range []string{"seccomp=", "seccomp:"} {
		if file, ok := strings.CutPrefix(opt, prefix); ok {
			return file, file != "unconfined" && file != "builtin"
		}
	}
	return "", false
}

func (l *Loaded) marshal(p *types.Project) ([]byte, error) {
	data, err := p.MarshalYAML()
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	l.keepZeros(doc.Content[0])
	escape(doc.Content[0])
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	err = e.Encode(&doc)
	return out.Bytes(), err
}

// escape writes dollar signs of values as $$. Those of keys are no variables.
func escape(n *yaml.Node) {
	switch n.Kind { //nolint:exhaustive // what was marshalled has no aliases
	case yaml.ScalarNode:
		n.Value = strings.ReplaceAll(n.Value, "$", "$$")
	case yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			escape(n.Content[i])
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			escape(c)
		}
	}
}

// keepZeros writes what was stated as zero and means something else if it is not
// there, which compose-go leaves out: the monitor of an update.
func (l *Loaded) keepZeros(root *yaml.Node) {
	for name := range l.project.Services {
		u := l.project.Services[name].Deploy
		stated := lookup(l.problems.src.model, keys{"services", name, "deploy", "update_config", "monitor"}) != nil
		if u == nil || u.UpdateConfig == nil || u.UpdateConfig.Monitor != 0 || !stated {
			continue
		}
		n := root
		for _, key := range []string{"services", name, "deploy", "update_config"} {
			n = child(n, key)
		}
		n.Kind, n.Tag, n.Style = yaml.MappingNode, "!!map", 0
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "monitor"}, &yaml.Node{Kind: yaml.ScalarNode, Value: "0s"})
	}
}

// Pin returns the resolved Compose file as it is published: each image has the digest
// that is given for its service, the contents of configs stand in the file, and
// nothing refers to files of this host's project. What cannot go to a registry is an
// *Error. Warnings say what somebody who publishes ought to know.
func (l *Loaded) Pin(digests map[string]digest.Digest) (data []byte, warnings []string, err error) {
	ps := &problems{src: l.problems.src}
	p := l.plain()
	for name, s := range p.Services {
		at := keys{"services", name}
		s.Image = pinned(ps, at.at("image"), s.Image, digests[name])
		p.Services[name] = s
		l.checkPublished(ps, at, s)
	}
	p.Configs = maps.Clone(p.Configs)
	for name, c := range p.Configs {
		p.Configs[name] = l.inline(ps, keys{"configs", name}, c)
	}
	for name, s := range p.Secrets {
		at := keys{"secrets", name}
		switch {
		case s.File == "":
			ps.addf(at, "a secret is not published: say file, with an absolute path that each node has")
		case relative(ps.src, at.at("file"), s.File):
			ps.addf(at.at("file"), "a secret is not published, and %s is relative to the Compose file: say an absolute path that each node has", s.File)
		}
	}
	if err := ps.err(); err != nil {
		return nil, nil, err
	}
	for _, w := range sorted(ps.warnings) {
		warnings = append(warnings, w.String())
	}
	data, err = l.marshal(p)
	return data, warnings, err
}

// pinned returns a reference with the digest that it is to have.
func pinned(ps *problems, p keys, image string, d digest.Digest) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		ps.addf(p, "%q: %v", image, err)
		return image
	}
	if own, ok := named.(reference.Digested); ok {
		if d != "" && d != own.Digest() {
			ps.addf(p, "%s is not %s", image, d)
		}
		return named.String()
	}
	if err := d.Validate(); err != nil {
		ps.addf(p, "the digest of %s is not known", image)
		return image
	}
	with, err := reference.WithDigest(reference.TagNameOnly(named), d)
	if err != nil {
		ps.addf(p, "%q: %v", image, err)
		return image
	}
	return with.String()
}

// checkPublished refuses what a service takes from the directory of the Compose file.
func (l *Loaded) checkPublished(ps *problems, p keys, s types.ServiceConfig) {
	for i, v := range s.Volumes {
		at := p.at("volumes").index(i)
		if v.Type == types.VolumeTypeBind && relative(ps.src, at.at("source"), v.Source) {
			ps.addf(at, "%s is relative to the Compose file, which nodes do not have: say an absolute path, a volume, or a config", v.Source)
		}
	}
	for i, opt := range l.project.Services[s.Name].SecurityOpt {
		if file, ok := profileOf(opt); ok && !filepath.IsAbs(file) {
			ps.addf(p.at("security_opt").index(i), "the seccomp profile %s is relative to the Compose file, which nodes do not have: say an absolute path", file)
		}
	}
	for key, v := range byKey(s.Environment) {
		if v != nil && *v != "" && secretName.MatchString(key) && !strings.HasSuffix(strings.ToUpper(key), "_FILE") {
			ps.warnf(p.at("environment", key), "its value is published, for everybody to read who may pull the stack: if it is secret, have it in a file that nodes have, and say it as one of the secrets")
		}
	}
	if l.project.Services[s.Name].Environment != nil && ps.src.exact(p.at("env_file")) != nil {
		ps.warnf(p.at("env_file"), "its variables are published, for everybody to read who may pull the stack")
	}
}

// secretName matches variables whose values often are secret.
var secretName = regexp.MustCompile(`(?i)(^|_)(PASS|PASSWD|PASSWORD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?|(API|ACCESS|PRIVATE|SECRET|ENCRYPTION)_?KEY)($|_)`)

// inline puts the content of a config into the Compose file.
func (l *Loaded) inline(ps *problems, p keys, c types.ConfigObjConfig) types.ConfigObjConfig {
	if c.Content != "" && c.Environment == "" {
		return c
	}
	t := &translation{problems: ps, project: l.project, read: map[string][]byte{}, local: ps.src.local}
	content, ok := t.content(p, types.FileObjectConfig(c))
	if !ok {
		return c
	}
	if !utf8.Valid(content) || bytes.IndexByte(content, 0) >= 0 {
		ps.addf(p, "its content is no text, and cannot stand in a Compose file")
	}
	c.File, c.Environment, c.Content = "", "", string(content)
	return c
}

// relative says whether a path was written relative to the Compose file: compose-go
// has made it absolute. One of a variable counts as relative within the project's
// directory.
func relative(src *sources, p keys, file string) bool {
	if !filepath.IsAbs(file) {
		return true
	}
	written := ""
	if at := src.exact(p); at != nil {
		written = resolve(at.value).Value
	} else if at := src.exact(p[:len(p)-1]); at != nil { // the short form of a volume
		written = resolve(at.value).Value
	}
	if written == "" || strings.HasPrefix(written, "$") {
		rel, err := filepath.Rel(src.dir, file)
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	}
	return !strings.HasPrefix(written, "/")
}
