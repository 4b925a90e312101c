package build

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/defaults"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/worker"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// open puts BuildKit together. On error nothing is left open.
func (b *Builder) open(ctx context.Context) (err error) {
	var opened []func() error
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(opened) {
				_ = f() // why it failed is said already
			}
		}
	}()
	if b.guard, err = openGuard(b.opts.Root, b.log); err != nil {
		return err
	}
	if b.worker, err = openWorker(ctx, b.opts); err != nil {
		return err
	}
	opened = append(opened, b.worker.close)
	b.worker.alone = b.alone
	if b.sessions, err = session.NewManager(); err != nil {
		return err
	}
	wc := &worker.Controller{}
	if err := wc.Add(b.worker); err != nil {
		return err
	}
	gw, err := gateway.NewGatewayFrontend(wc.Infos(), nil)
	if err != nil {
		return err
	}
	results, err := bboltcachestorage.NewStore(filepath.Join(b.opts.Root, "cache.db"))
	if err != nil {
		return err
	}
	opened = append(opened, results.Close)
	history, err := boltutil.SafeOpen(filepath.Join(b.opts.Root, "history.db"), 0o600, &bolt.Options{
		FreelistType: bolt.FreelistMapType, NoFreelistSync: true, NoSync: true,
	})
	if err != nil {
		return err
	}
	opened = append(opened, history.Close)
	b.results = solver.NewCacheManager(ctx, "local", results, worker.NewCacheResultStorage(wc))
	b.control, err = control.NewController(control.Opt{
		SessionManager:   b.sessions,
		WorkerController: wc,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(wc.Infos(), dockerfile.Build),
			"gateway.v0":    gw,
		},
		CacheManager: b.results,
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"registry": packedCache(registrycache.ResolveCacheExporterFunc(b.sessions, b.opts.Hosts)),
			"local":    localcache.ResolveCacheExporterFunc(b.sessions),
			"inline":   inlinecache.ResolveCacheExporterFunc(),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registrycache.ResolveCacheImporterFunc(b.sessions, b.worker.ContentStore(), b.opts.Hosts),
			"local":    localcache.ResolveCacheImporterFunc(b.sessions),
		},
		Entitlements:   []string{string(entitlements.EntitlementNetworkHost)},
		HistoryDB:      history,
		CacheStore:     results,
		LeaseManager:   b.worker.LeaseManager(),
		ContentStore:   b.worker.ContentStore(),
		GarbageCollect: b.worker.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
	if err != nil {
		return err
	}
	b.server = grpc.NewServer(
		grpc.ChainUnaryInterceptor(b.counted, grpcerrors.UnaryServerInterceptor),
		grpc.ChainStreamInterceptor(grpcerrors.StreamServerInterceptor, b.pruned),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	grpc_health_v1.RegisterHealthServer(b.server, health.NewServer())
	b.control.Register(b.server)
	return nil
}

// serve serves gRPC on one connection until it or ctx ends.
func serve(ctx context.Context, server *grpc.Server, conn net.Conn, log *slog.Logger) {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	(&http2.Server{}).ServeConn(conn, &http2.ServeConnOpts{ //nolint:staticcheck // the connection is there already, and speaks HTTP/2
		Context: ctx, Handler: server,
		// Clients connect to see whether they can, and leave.
		BaseConfig: &http.Server{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}, //nolint:gosec // it does not listen
	})
}

// packedCache exports a cache compressed, unless somebody says otherwise.
func packedCache(next remotecache.ResolveCacheExporterFunc) remotecache.ResolveCacheExporterFunc {
	return func(ctx context.Context, g session.Group, attrs map[string]string) (remotecache.Exporter, error) {
		return next(ctx, g, packed(attrs))
	}
}

// counted counts builds, of which a client may have several under way.
func (b *Builder) counted(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	solve, ok := req.(*controlapi.SolveRequest)
	if !ok {
		return handler(ctx, req)
	}
	ctx, end, err := b.begin(ctx, solve.Ref)
	if err != nil {
		return nil, err
	}
	defer end()
	return handler(ctx, req)
}
