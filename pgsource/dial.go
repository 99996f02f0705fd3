package pgsource

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Dial opens a connection with the settings of Options.DSN, and nothing else: no privileges are looked at, and no data directory. name is the application_name, unless
// the settings give one. beside opens another connection to the very server that answered, whatever hosts the settings name, with further parameters such as
// replication.
//
// Errors: ErrSettings, ErrUnreachable, ErrRejected.
func Dial(ctx context.Context, dsn, name string) (conn *pgx.Conn, beside func(ctx context.Context, params map[string]string) (*pgx.Conn, error), err error) {
	config, err := parseSettings(dsn, name)
	if err != nil {
		return nil, nil, err
	}
	var found foundHosts
	found.watch(&config.Config)
	if conn, err = dialConfig(ctx, config); err != nil {
		return nil, nil, err
	}
	pinned := found.pin(config, conn.PgConn().Conn().RemoteAddr(), conn.PgConn().Conn())
	return conn, func(ctx context.Context, params map[string]string) (*pgx.Conn, error) {
		again := pinned.Copy()
		maps.Copy(again.RuntimeParams, params)
		return dialConfig(ctx, again)
	}, nil
}

func parseSettings(dsn, name string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSettings, err) // pgx blots out the password
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = name
	}
	// No prepared statements: each query runs once or rarely.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	return config, nil
}

func dialConfig(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("connect: %w", ctx.Err())
	}
	return nil, fmt.Errorf("%w: %w", connectCause(err), err)
}

// foundHosts remembers which host each address came from while a connection is made.
type foundHosts struct {
	mu   sync.Mutex
	host map[string]string
}

func (f *foundHosts) watch(c *pgconn.Config) {
	f.host = map[string]string{}
	lookup := c.LookupFunc
	c.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		addrs, err := lookup(ctx, host)
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, a := range addrs {
			f.host[a] = host
		}
		return addrs, err
	}
}

// pin returns settings that lead to the server at remote only, as conn was made: with or without TLS, by the name that the server's certificate was compared with.
// What the settings ask of a server it has answered already, and a connection for replication cannot be asked again.
func (f *foundHosts) pin(config *pgx.ConnConfig, remote net.Addr, conn net.Conn) *pgx.ConnConfig {
	p := config.Copy()
	all := append([]*pgconn.FallbackConfig{{Host: p.Host, Port: p.Port, TLSConfig: p.TLSConfig}}, p.Fallbacks...)
	p.ValidateConnect = nil
	tcp, ok := remote.(*net.TCPAddr)
	if !ok { // a socket: which one, its path tells
		if i := slices.IndexFunc(all, func(c *pgconn.FallbackConfig) bool { return pathOf(c) == remote.String() }); i >= 0 {
			p.Host, p.Port, p.TLSConfig, p.Fallbacks = all[i].Host, all[i].Port, all[i].TLSConfig, nil
		}
		return p
	}
	_, plain := conn.(*net.TCPConn)
	f.mu.Lock()
	host := f.host[tcp.IP.String()]
	f.mu.Unlock()
	for _, c := range all {
		if (c.Host == host || c.Host == tcp.IP.String()) && int(c.Port) == tcp.Port && (c.TLSConfig == nil) == plain {
			p.Host, p.Port, p.TLSConfig, p.Fallbacks = tcp.IP.String(), c.Port, c.TLSConfig, nil
			break
		}
	}
	return p
}

func pathOf(c *pgconn.FallbackConfig) string {
	_, address := pgconn.NetworkAddress(c.Host, c.Port)
	return address
}
