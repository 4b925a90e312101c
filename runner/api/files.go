package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

func (x *exchange) containerChanges() error {
	changes, err := x.engine.ContainerChanges(x.r.Context(), x.container())
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, changes)
}

func (x *exchange) exportContainer() error {
	x.w.Header()["Content-Type"] = []string{"application/x-tar"}
	return x.engine.ExportContainer(x.r.Context(), x.container(), x.w)
}

// archivePath is the path in the container that the request is about.
func (x *exchange) archivePath() (string, error) {
	path := x.q.Get("path")
	if path == "" {
		return "", runner.Errorf(runner.ErrInvalid, "bad parameter: path cannot be empty")
	}
	return path, nil
}

// describe puts what is at a path into a header.
func (x *exchange) describe(stat container.PathStat) error {
	b, err := json.Marshal(stat)
	if err != nil {
		return err
	}
	x.w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(b))
	return nil
}

func (x *exchange) statArchive() error {
	path, err := x.archivePath()
	if err != nil {
		return err
	}
	stat, err := x.engine.StatContainerPath(x.r.Context(), x.container(), path)
	if err != nil {
		return err
	}
	if err := x.describe(stat); err != nil {
		return err
	}
	return x.done(http.StatusOK)
}

func (x *exchange) readArchive() error {
	path, err := x.archivePath()
	if err != nil {
		return err
	}
	archive, stat, err := x.engine.ReadContainerArchive(x.r.Context(), x.container(), path)
	if err != nil {
		return err
	}
	if err := x.describe(stat); err != nil {
		return errors.Join(err, archive.Close())
	}
	x.w.Header()["Content-Type"] = []string{"application/x-tar"}
	x.w.WriteHeader(http.StatusOK)
	_, err = io.Copy(x.w, archive)
	return errors.Join(err, archive.Close())
}

func (x *exchange) writeArchive() error {
	path, err := x.archivePath()
	if err != nil {
		return err
	}
	opts := runner.ArchiveOptions{NoOverwriteDirNonDir: x.isSet("noOverwriteDirNonDir"), CopyUIDGID: x.isSet("copyUIDGID")}
	if err := x.engine.WriteContainerArchive(x.r.Context(), x.container(), path, opts, x.r.Body); err != nil {
		return err
	}
	return x.done(http.StatusOK)
}

func (x *exchange) commit() error {
	var config *container.Config
	if _, err := x.body(&config); err != nil {
		return err
	}
	repo, tag, err := x.repoTag()
	if err != nil {
		return err
	}
	id, err := x.engine.CommitContainer(x.r.Context(), runner.CommitRequest{
		Container: x.q.Get("container"), Repo: repo, Tag: tag,
		Author: x.q.Get("author"), Comment: x.q.Get("comment"),
		Pause: x.isSetOrAbsent("pause"), Changes: x.q["changes"], Config: config,
	})
	if err != nil {
		return err
	}
	return x.json(http.StatusCreated, container.CommitResponse{ID: id})
}
