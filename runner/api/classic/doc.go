// Package classic says what a build by BuildKit does in the words of Docker's
// builder before it: a numbered step for each instruction of the Dockerfile, what
// the step printed, and the name and ID of the image.
//
// It promises the form that programs read: "Step 1/3 : FROM busybox", the output of
// RUN in the order of the Dockerfile, " ---> Using cache", and the error of a
// command that fails.
//
// What it does not do: it builds nothing, and what it prints after " ---> " for a
// step before the last is made up, because there is no image of each step.
package classic
