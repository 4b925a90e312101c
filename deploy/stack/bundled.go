package stack

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/berth-registry/berth/runner"
)

// FromFiles is FromYAML for a Compose file that was published with others, which lie in
// dir: those that its services extend, by their names, and those of variables. It names
// no others: what lies elsewhere is this host's.
func FromFiles(ctx context.Context, name string, data []byte, dir string, extended map[string][]byte, variables []string) (*Loaded, error) {
	all := &sources{dir: dir, files: []*source{{name: name, data: data}}}
	names := slices.Clone(variables)
	for file, content := range byKey(extended) {
		names = append(names, file)
		all.files = append(all.files, &source{name: name + ", " + file, data: content})
	}
	for _, f := range all.files {
		if len(f.data) > MaxSize {
			return nil, runner.Errorf(runner.ErrInvalid, "%s: %d bytes are too much for a Compose file: %d are allowed", f.name, len(f.data), MaxSize)
		}
	}
	if err := checkShape(all); err != nil {
		return nil, err
	}
	for _, f := range all.files {
		if err := checkTogether(f, dir, names); err != nil {
			return nil, err
		}
	}
	registerRaw()
	details := types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: name, Content: data}},
		Environment: types.Mapping{},
	}
	return load(ctx, &sources{dir: dir, files: all.files[:1]}, details, func(o *loader.Options) {
		o.ResourceLoaders = append([]loader.ResourceLoader{remote{}}, o.ResourceLoaders...)
		o.SkipInclude = true
	}, loader.WithDiscardEnvFiles)
}

// checkTogether refuses a Compose file that names others than those that were published
// with it.
func checkTogether(f *source, dir string, names []string) error {
	ps := &problems{src: &sources{dir: dir, files: []*source{f}}}
	docs := f.parse()
	if f.err != nil {
		return explain(ps, f.err)
	}
	known := func(at keys, v any) {
		name, ok := v.(string)
		if ok && (strings.Contains(name, "$") || !slices.Contains(names, filepath.Clean(name))) {
			ps.addf(at, "%q is not among the files that were published with this one", name)
		}
	}
	for _, doc := range docs {
		var top map[string]any
		if err := doc.Decode(&top); err != nil { // with what is merged into it
			return explain(ps, err)
		}
		if top["include"] != nil {
			ps.addf(keys{"include"}, "%s", alone)
		}
		services, _ := top["services"].(map[string]any)
		for name, v := range byKey(services) {
			at := keys{"services", name}
			service, _ := v.(map[string]any)
			for _, key := range []string{"env_file", "label_file"} {
				for i, file := range several(service[key]) {
					if m, ok := file.(map[string]any); ok {
						file = m["path"]
					}
					known(at.at(key).index(i), file)
				}
			}
			if ext, ok := service["extends"].(map[string]any); ok {
				known(at.at("extends", "file"), ext["file"])
			}
		}
	}
	return ps.err()
}

// several are the elements of a list, or what stands for a list of one.
func several(v any) []any {
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}
