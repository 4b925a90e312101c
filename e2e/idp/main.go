// Command idp is an OpenID Connect provider for tests. The protocol and its
// storage are those of the zitadel/oidc library and its example; this program
// gives them users of groups, a key that is kept in a file or made anew, and, as
// the platforms of continuous integration have it, an endpoint that signs ID
// tokens with any claims.
//
// It prints "ready" when it listens. It is not for use outside of tests.
package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

type options struct {
	addr, issuer, users, key, cert, certKey, clientID, clientSecret string
}

func main() {
	var o options
	flag.StringVar(&o.addr, "addr", "127.0.0.1:0", "address to listen on")
	flag.StringVar(&o.issuer, "issuer", "", "URL of the issuer")
	flag.StringVar(&o.users, "users", "", "JSON file of users")
	flag.StringVar(&o.key, "key", "", "file of the key that signs; it is made if there is none")
	flag.StringVar(&o.cert, "tls-cert", "", "certificate for TLS")
	flag.StringVar(&o.certKey, "tls-key", "", "key for TLS")
	flag.StringVar(&o.clientID, "client-id", "berth", "client")
	flag.StringVar(&o.clientSecret, "client-secret", "", "its secret")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "idp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	users, err := readUsers(o.users)
	if err != nil {
		return err
	}
	key, err := loadKey(o.key)
	if err != nil {
		return err
	}
	client := storage.WebClient(o.clientID, o.clientSecret)
	store := &store{
		Storage: storage.NewStorageWithClients(users, map[string]*storage.Client{o.clientID: client}),
		users:   users, key: key,
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	provider := exampleop.SetupServer(o.issuer, store, log, false)
	mux := http.NewServeMux()
	mux.Handle("/", provider)
	mux.Handle("POST /workload/token", workload{issuer: o.issuer, secret: o.clientSecret, key: key})

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Fprintln(os.Stdout, "ready")
	if o.cert != "" {
		err = server.ServeTLS(listener, o.cert, o.certKey)
	} else {
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// workload signs the claims that it is sent: issuer and times are its own unless
// the claims have others; a claim that is null is left out.
type workload struct {
	issuer, secret string
	key            *key
}

func (wl workload) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Bearer " + wl.secret
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(want)) == 0 {
		http.Error(w, "wrong secret", http.StatusUnauthorized)
		return
	}
	var asked map[string]any
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	body.UseNumber()
	if err := body.Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	now := time.Now()
	claims := map[string]any{
		"iss": wl.issuer, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
	maps.Copy(claims, asked)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	token, err := wl.key.sign(claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"value": token}) // the client is gone
}
