package stack

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/consts"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// MaxSize bounds a published Compose file, in bytes.
const MaxSize = 4 << 20

// Options say which Compose files are loaded, and with what.
type Options struct {
	// Files are merged in this order. Without any, COMPOSE_FILE of Env names them, or
	// else compose.yaml, compose.yml, docker-compose.yml or docker-compose.yaml is
	// looked for in WorkingDir and above it, with its override file.
	Files []string
	// ProjectName is the stack's name. Empty: COMPOSE_PROJECT_NAME of Env, or name in
	// the Compose file, or the name of the directory.
	ProjectName string
	// WorkingDir is what relative paths are relative to; empty: the directory of the
	// first file.
	WorkingDir string
	// Env are the variables, as KEY=VALUE, that replace those in the Compose file and
	// that environment, configs and secrets may be taken from: os.Environ() of a
	// command.
	Env []string
	// EnvFiles have further variables; Env takes precedence. Without any, .env beside
	// the Compose file is read.
	EnvFiles []string
	// Profiles are the profiles whose services are deployed beside those without one;
	// none: COMPOSE_PROFILES of Env.
	Profiles []string
}

// Loaded is what a Compose file has been made into.
type Loaded struct {
	Stack    deploy.Stack
	Contents deploy.Contents // of all its configs and secrets
	Rollout  *Rollout        // over a fleet; nil: none is stated
	Warnings []string        // FILE:LINE: PATH: what to know, sorted
	Files    []string        // that it was read from, as errors name them

	project  *types.Project
	problems *problems
}

// Load reads Compose files. What is wrong with them, or not supported, is an *Error
// with all of it.
func Load(ctx context.Context, o Options) (*Loaded, error) {
	envFiles := []cli.ProjectOptionsFn{cli.WithEnvFiles(o.EnvFiles...), cli.WithDotEnv}
	opts, err := cli.NewProjectOptions(o.Files, slices.Concat(
		[]cli.ProjectOptionsFn{cli.WithWorkingDirectory(o.WorkingDir), cli.WithEnv(o.Env)}, envFiles,
		[]cli.ProjectOptionsFn{cli.WithConfigFileEnv, cli.WithDefaultConfigPath}, envFiles, // it may be in another directory
		[]cli.ProjectOptionsFn{cli.WithName(o.ProjectName)},
	)...)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	if len(opts.ConfigPaths) == 0 {
		return nil, runner.Errorf(runner.ErrNotFound, "no Compose file: neither compose.yaml nor any of its other names is in this directory or above it")
	}
	dir, err := opts.GetWorkingDir()
	if err != nil {
		return nil, err
	}
	details, err := opts.ReadConfigFiles(ctx, dir, opts)
	if missing, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, runner.Errorf(runner.ErrInvalid, "%s: %w", display(missing.Path), missing.Err)
	}
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	details.Environment = opts.Environment
	src := &sources{dir: details.WorkingDir, local: true, env: details.Environment}
	for i, f := range details.ConfigFiles {
		name := display(f.Filename)
		if i < len(o.Files) {
			name = o.Files[i]
		}
		if f.IsStdin() {
			name = "standard input"
		}
		src.files = append(src.files, &source{name: name, path: f.Filename, data: f.Content})
	}
	if err := checkShape(src); err != nil {
		return nil, err
	}
	name := cmp.Or(o.ProjectName, opts.Environment[consts.ComposeProjectName])
	return load(ctx, src, *details, naming(name, details.WorkingDir), loader.WithDiscardEnvFiles,
		func(o *loader.Options) {
			o.ResourceLoaders = append([]loader.ResourceLoader{remote{}}, o.ResourceLoaders...)
		},
		loader.WithProfiles(profiles(o.Profiles, opts.Environment[consts.ComposeProfiles])))
}

// FromYAML loads a Compose file that was published, on the node that is to run it.
// There are no files beside it, and no variables; secrets with an absolute file are
// read on this node. Name is what errors call it.
func FromYAML(ctx context.Context, name string, data []byte) (*Loaded, error) {
	if len(data) > MaxSize {
		return nil, runner.Errorf(runner.ErrInvalid, "%s: %d bytes are too much for a Compose file: %d are allowed", name, len(data), MaxSize)
	}
	if data == nil { // which has compose-go read a file
		data = []byte{}
	}
	src := &sources{dir: "/", files: []*source{{name: name, data: data}}}
	if err := checkPublished(src); err != nil {
		return nil, err
	}
	details := types.ConfigDetails{
		WorkingDir:  "/",
		ConfigFiles: []types.ConfigFile{{Filename: name, Content: data}},
		Environment: types.Mapping{},
	}
	return load(ctx, src, details, func(o *loader.Options) {
		o.ResourceLoaders = []loader.ResourceLoader{nothing{}}
		o.SkipResolveEnvironment = true
		o.SkipResolveLabels = true
		o.SkipInclude = true
		o.ResolvePaths = false // what is relative is refused
	})
}

// load parses, checks and translates.
func load(ctx context.Context, src *sources, details types.ConfigDetails, options ...func(*loader.Options)) (*Loaded, error) {
	ps := &problems{src: src}
	for i, f := range src.files {
		details.ConfigFiles[i].Content = withoutVersion(ps, f)
	}
	vars := &variables{}
	options = append(options, vars.option)
	model, err := loader.LoadModelWithContext(ctx, details, options...)
	if err != nil {
		return nil, explain(ps, err)
	}
	src.model = clone(model).(map[string]any)
	opts := loader.ToOptions(&details, options)
	name, _ := model["name"].(string)
	opts.SetProjectName(name, true)
	checkFields(ps, opts.Profiles)
	if src.local {
		registerRaw()
		if !checkReads(ps, opts.Profiles) {
			return nil, ps.err()
		}
	}
	project, err := loader.ModelToProject(model, opts, details)
	if err != nil {
		return nil, explain(ps, err)
	}
	project = project.WithoutUnresolvedOptionalDependencies().WithoutUnnecessaryResources()
	vars.tell(ps)
	t := &translation{
		problems: ps, project: project, model: src.model, local: src.local,
		contents: deploy.Contents{}, read: map[string][]byte{}, claimed: map[string]string{},
	}
	return t.translate(ctx)
}

// profiles are those asked for, or else those of COMPOSE_PROFILES.
func profiles(asked []string, env string) []string {
	if len(asked) > 0 {
		return asked
	}
	return strings.FieldsFunc(env, func(r rune) bool { return r == ',' || r == ' ' })
}

// naming names the project as Compose does: what is asked for, what the files say, or
// the directory.
func naming(name, dir string) func(*loader.Options) {
	return func(o *loader.Options) {
		if name != "" {
			o.SetProjectName(name, true)
			return
		}
		o.SetProjectName(loader.NormalizeProjectName(filepath.Base(dir)), false)
	}
}
