package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

const exampleHead = `# The configuration of berth serve: every key with its default. What is left out
# has its default, and anything that is not here is an error.
#
# Each key can also be set in the environment: http.addr is BERTH_HTTP_ADDR. A flag
# beats the environment, the environment beats this file. Durations are written
# like 30s, 5m or 24h. On SIGHUP the server reads this file again and takes over
# the keys marked [reload]; the others need a restart.
`

// Example returns a configuration file with every key, its default and a comment.
func Example() []byte {
	var b strings.Builder
	b.WriteString(exampleHead)
	c, section := Default(), ""
	for _, k := range keys {
		if k.section() != section {
			section = k.section()
			fmt.Fprintf(&b, "\n%s:\n", section)
		}
		doc := k.doc
		if k.reload {
			doc += " [reload]"
		}
		for line := range strings.SplitSeq(doc, "\n") {
			fmt.Fprintf(&b, "  # %s\n", line)
		}
		fmt.Fprintf(&b, "  %s: %s\n", k.name(), scalarText(k.value(&c)))
	}
	return []byte(b.String())
}

// scalarText is a value as YAML, in quotes if it needs them.
func scalarText(v *value) string {
	if v.tag != strTag {
		return v.text()
	}
	node := yaml.Node{Kind: yaml.ScalarNode, Tag: strTag, Value: v.text()}
	out, err := yaml.Marshal(&node)
	if err != nil {
		panic(err) // a string can always be written
	}
	return strings.TrimSpace(string(out))
}
