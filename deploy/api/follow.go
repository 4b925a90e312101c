package api

import (
	"context"
	"net/http"

	"github.com/berth-registry/berth/deploy"
)

// listFollowing tells how the stacks are doing that follow tags of registries.
func (x *exchange) listFollowing() error {
	list := []deploy.Following{}
	if x.o.Following != nil {
		list = append(list, x.o.Following()...)
	}
	return x.json(http.StatusOK, list)
}

// Following returns how the stacks are doing that follow tags of registries.
func (c *Client) Following(ctx context.Context) (all []deploy.Following, err error) {
	err = c.ask(ctx, get, Prefix+"follow", nil, &all)
	return all, err
}
