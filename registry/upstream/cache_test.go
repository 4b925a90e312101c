package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Who waits for a token that another fetches goes on when that one gives up.
func TestTokenCacheOfOneThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTokenCache()
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := c.Set(ctx, "a.example", auth.SchemeBearer, "x", func(ctx context.Context) (string, error) {
				<-ctx.Done()
				return "", errors.Join(errors.New("the request failed"), ctx.Err())
			})
			first <- err
		}()
		synctest.Wait()
		go func() {
			_, err := c.Set(t.Context(), "a.example", auth.SchemeBearer, "x", func(context.Context) (string, error) { return "token", nil })
			second <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the one that gave up: error %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the other: error %v", err)
		}
	})
}

func TestTokenCacheDoesNotGrow(t *testing.T) {
	c := newTokenCache()
	for i := range 2*maxTokens + 10 {
		key := string(rune(i + 1000))
		if _, err := c.Set(t.Context(), "a.example", auth.SchemeBearer, key, func(context.Context) (string, error) { return key, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if c.count > maxTokens {
		t.Errorf("keeps %d tokens", c.count)
	}
	if _, err := c.GetToken(t.Context(), "a.example", auth.SchemeBearer, string(rune(1000))); err == nil {
		t.Error("keeps the oldest")
	}
}
