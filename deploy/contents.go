package deploy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner"
)

const contentsBound = 64 << 20 // bytes that the files of a revision may have together

// Contents of files are in the directory contents, named by their digests. What is
// mounted into containers is in the directory files: a copy for each owner and mode.

func (s store) content(d digest.Digest) string { return s.path("contents", d.Encoded()) }

func mountName(f File) string {
	return fmt.Sprintf("%s.%d.%d.%04o", f.Content.Encoded(), f.UID, f.GID, f.Mode.Perm())
}

// mounted is the path of what is mounted for a file.
func (s store) mounted(f File) string { return s.path("files", mountName(f)) }

// saveContents makes durable the contents of a stack's files. It fails with
// runner.ErrInvalid if one is neither given nor there already, or is not what its
// digest says.
func (s store) saveContents(stack *Stack, contents Contents) error {
	size, seen := 0, map[digest.Digest]bool{}
	for _, svc := range stack.Services {
		for _, f := range svc.Files {
			if seen[f.Content] {
				continue
			}
			seen[f.Content] = true
			data, given := contents[f.Content]
			if !given {
				if _, err := os.Stat(s.content(f.Content)); err == nil {
					continue
				}
				return runner.Errorf(runner.ErrInvalid, "service %s: the content of %s is missing", svc.Name, f.Name)
			}
			if f.Content.Algorithm().FromBytes(data) != f.Content {
				return runner.Errorf(runner.ErrInvalid, "service %s: the content of %s is not that of its digest", svc.Name, f.Name)
			}
			if size += len(data); size > contentsBound {
				return runner.Errorf(runner.ErrInvalid, "the files of stack %s have more than %d MiB", stack.Name, contentsBound>>20)
			}
			if err := durable.MkdirAll(s.path("contents")); err != nil {
				return err
			}
			if err := durable.WriteFile(s.content(f.Content), data); err != nil {
				return err
			}
		}
	}
	return nil
}

// mountFiles makes what is mounted for the files of a service.
func (s store) mountFiles(svc *Service) error {
	for _, f := range svc.Files {
		path := s.mounted(f)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		data, err := os.ReadFile(s.content(f.Content))
		if err != nil {
			return fmt.Errorf("content of %s: %w", f.Name, err)
		}
		if err := durable.MkdirAll(s.path("files")); err != nil {
			return err
		}
		if err := writeOwned(path, data, f); err != nil {
			return err
		}
	}
	return nil
}

// writeOwned makes a file that has its owner and mode before it has its name.
func writeOwned(path string, data []byte, f File) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chown(f.UID, f.GID)
	}
	if err == nil {
		err = tmp.Chmod(f.Mode.Perm())
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = durable.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // it is of no use
	}
	return err
}

// forgetContents removes the contents and files that none of the stacks has.
func (s store) forgetContents(stacks []*Stack) error {
	contents, files := map[string]bool{}, map[string]bool{}
	for _, stack := range stacks {
		for _, svc := range stack.Services {
			for _, f := range svc.Files {
				contents[f.Content.Encoded()], files[mountName(f)] = true, true
			}
		}
	}
	return errors.Join(removeOthers(s.path("contents"), contents), removeOthers(s.path("files"), files))
}

func removeOthers(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
	}
	return err
}
