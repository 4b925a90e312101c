// Package build builds images with BuildKit in this process, sharing the image
// store.
package build
