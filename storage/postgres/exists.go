package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Exists says whether there is a schema that Open has made, and makes none.
func Exists(ctx context.Context, o Options) (there bool, err error) {
	config, schema, err := o.config()
	if err != nil {
		return false, err
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return false, told(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it was only read
	err = conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", quoted(schema)+".versions").Scan(&there)
	return there, told(err)
}
