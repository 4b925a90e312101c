package runnerconfig

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

// minInterval and maxInterval bound how often registries that are followed are told and
// asked something: they take no other.
const (
	minInterval = time.Second
	maxInterval = time.Hour
)

var (
	followed  = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	stackName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,199}$`)
)

const followDoc = `The stacks that this node runs as tags of registries name them, put there by
berth-runner publish: moving the tag deploys. What is said in registries holds for them,
username and password_file too; images of the same registry are pulled with these.`

const followExample = `- registry.example.com/stacks/shop:prod
- stack: registry.example.com/stacks/blog:prod
  name: blog  # of the stack here; by default what the repository ends with
`

// follow are tags of stacks.
func follow(c *Config) *settings.Items {
	return &settings.Items{
		Want:    "stacks to follow, such as registry.example.com/stacks/shop:prod",
		Example: followExample,
		Len:     len(c.Follow),
		Text:    true,
		Entry: func(i int) []settings.Field {
			if i == len(c.Follow) {
				c.Follow = append(slices.Clip(c.Follow), &Follow{})
			}
			f := c.Follow[i]
			return []settings.Field{
				{Name: "stack", Value: settings.Text(&f.Stack, "a tag such as registry.example.com/stacks/shop:prod", same, followedTag)},
				{Name: "name", Value: settings.Match(&f.Name, "the name of a stack: lower case letters, digits, - and _", stackName)},
			}
		},
	}
}

func same(s string) string { return s }

// followedTag accepts HOST/REPOSITORY:TAG, by Docker's rule of what is a host.
func followedTag(s string) (string, bool) {
	host, rest, _ := strings.Cut(s, "/")
	isHost := strings.ContainsAny(host, ".:") || host == "localhost"
	return s, isHost && hostName.MatchString(host) && followed.MatchString(rest)
}

// labels are texts by name.
func labels(c *Config) *settings.Named {
	const most = 256 // bytes, which the registry takes
	return &settings.Named{
		Want:    "names of labels",
		Example: "role: web\n",
		Names:   slices.Sorted(maps.Keys(c.Node.Labels)),
		Entry: func(name string) []settings.Field {
			if name == "" || len(name) > most {
				return nil
			}
			value := c.Node.Labels[name]
			v := settings.Text(&value, "a text of at most 256 bytes, in quotes if it looks like something else", same, func(s string) (string, bool) {
				if len(s) > most {
					return "", false
				}
				if c.Node.Labels == nil {
					c.Node.Labels = map[string]string{}
				}
				c.Node.Labels[name] = s
				return s, true
			})
			return []settings.Field{{Value: v}}
		},
	}
}

// followConflicts checks the stacks that are followed, one against the others.
func followConflicts(c Config) []settings.Conflict {
	var found []settings.Conflict
	report := func(message string, keys ...string) {
		found = append(found, settings.Conflict{Keys: keys, Message: message})
	}
	const mostLabels = 64
	if len(c.Node.Labels) > mostLabels {
		report("expected at most 64 labels", "node.labels")
	}
	const allLabels = 4 << 10
	bytes := 0
	for name, value := range c.Node.Labels {
		bytes += len(name) + len(value)
	}
	if bytes > allLabels {
		report("expected names and values of at most 4096 bytes together", "node.labels")
	}
	names := map[string]bool{}
	for _, f := range c.Follow {
		name := f.StackName()
		switch {
		case f.Stack == "":
			report("expected stack in each entry", "follow")
			continue
		case !stackName.MatchString(name):
			report("expected a name for "+f.Stack+": "+settings.Quote(name)+" cannot be that of a stack", "follow")
		case names[name]:
			report("expected stacks of different names, found two "+settings.Quote(name), "follow")
		}
		names[name] = true
	}
	return found
}
