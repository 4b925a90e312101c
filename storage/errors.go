package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Classify wraps an error of the operating system in the error of this package
// that says the same, if there is one.
func Classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EUCLEAN), errors.Is(err, syscall.EBADMSG), errors.Is(err, syscall.ENODATA):
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return err
}
