package runnerconfig

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/berth-registry/berth/internal/settings"
)

// TrustRule says what holds for images of some repositories. One of Keys, Issuer, Allow
// and Deny is set.
type TrustRule struct {
	Images   []string // patterns of full names of repositories, or local
	Keys     []string // paths of public keys
	Issuer   string   // of certificates, a URL
	Subjects []string // patterns of who they are for
	Root     string   // path of a trusted root
	Allow    bool
	Deny     bool
}

const trustDoc = `Which images may run: the first rule decides whose patterns match where the content of
the image was pulled from, whatever it is named here; if none matches, it may not run.
Without any rule everything runs. docker run, restart policies, builds and deployments ask;
what runs is left alone until its next start.
* images: patterns of full names: * is any part between slashes, ** any number of parts.
Docker Hub's start with docker.io/; local is what was built, loaded, imported or
committed here.
* keys: one of these must have signed the image, as cosign does it.
* issuer, subjects, root: or a certificate of this issuer for one of these patterns, as
the trusted root says, a file that cosign trusted-root create makes. With keys, a root
says whose log or time stamp signatures must have, too.
* allow: it may run, signed or not. deny: it may not.`

const trustExample = `- {images: ["registry.example.com/prod/**"], keys: [/etc/berth/cosign.pub]}
- images: ["ghcr.io/acme/**"]
  issuer: https://token.actions.githubusercontent.com
  subjects: ["https://github.com/acme/**"]
  root: /etc/berth/trusted_root.json
- {images: ["docker.io/library/*", local], allow: true}
- {images: ["**"], deny: true}
`

// trust is a list of rules.
func trust(c *Config) *settings.Items {
	return &settings.Items{
		Want:    "rules",
		Example: trustExample,
		Len:     len(c.Trust),
		Entry: func(i int) []settings.Field {
			if i == len(c.Trust) {
				c.Trust = append(slices.Clip(c.Trust), TrustRule{})
			}
			r := &c.Trust[i]
			return []settings.Field{
				{Name: "images", Value: settings.List(&r.Images, "a list of local and of patterns with a registry's host, such as registry.example.com/prod/**, docker.io/library/alpine or **", imagePattern)},
				{Name: "keys", Value: settings.List(&r.Keys, "a list of absolute paths of PEM files", absolute.MatchString)},
				{Name: "issuer", Value: settings.Match(&r.Issuer, `a URL such as https://token.actions.githubusercontent.com, or ""`, urlOrNone)},
				{Name: "subjects", Value: settings.List(&r.Subjects, "a list of patterns such as https://github.com/acme/**", subjectPattern.MatchString)},
				{Name: "root", Value: settings.PathOrNone(&r.Root, "the path of a trusted root")},
				{Name: "allow", Value: settings.Boolean(&r.Allow)},
				{Name: "deny", Value: settings.Boolean(&r.Deny)},
			}
		},
	}
}

var (
	namePattern    = regexp.MustCompile(`^([A-Za-z0-9*.-]+|\[[0-9a-fA-F:]+\])(:[0-9*]{1,5})?(/[a-z0-9*._-]+)*$`)
	subjectPattern = regexp.MustCompile(`^[^\s\x00]+$`)
)

// imagePattern says whether s can match the full name of a repository, or is local. A
// pattern that never matches would let nobody in where it allows, and everybody where it
// denies.
func imagePattern(s string) bool {
	if s == "local" {
		return true
	}
	host, path, _ := strings.Cut(s, "/")
	if len(s) > 1024 || !namePattern.MatchString(s) || !strings.ContainsAny(host, ".:*[") && host != "localhost" {
		return false
	}
	if host == "docker.io" { // of its names, all have two parts
		return strings.ContainsAny(path, "/*")
	}
	return path != "" || strings.Contains(s, "**")
}

// trustConflicts says what is wrong with the rules.
func trustConflicts(c Config, report func(message string, keys ...string)) {
	for i, r := range c.Trust {
		n := fmt.Sprintf("rule %d", i+1)
		identity := r.Issuer != "" || len(r.Subjects) > 0
		kinds := 0
		for _, is := range []bool{len(r.Keys) > 0, identity, r.Allow, r.Deny} {
			if is {
				kinds++
			}
		}
		switch {
		case len(r.Images) == 0:
			report("expected images in "+n, "trust")
		case kinds != 1:
			report("expected one of keys, issuer with subjects, allow: true and deny: true in "+n, "trust")
		case identity && (r.Issuer == "" || len(r.Subjects) == 0 || r.Root == ""):
			report("expected all of issuer, subjects and root in "+n+": who signed it, who vouches for them, and whom to believe that", "trust")
		case r.Root != "" && (r.Allow || r.Deny):
			report("expected no root in "+n+", which looks at no signature", "trust")
		}
	}
}
