// SPDX-License-Identifier: Apache-2.0

//go:build unix

package attest

import (
	"errors"
	"syscall"
)

// Files whose content a kernel makes when they are opened are no plain files: each write is a command and must be one
// call, and a read goes on to the end. So this is the operating system's own interface; package os may split or repeat.

// readPseudo gives the content to its end; what is longer than most comes back as most+1 bytes.
func readPseudo(path string, most int) ([]byte, error) {
	file, err := retry(func() (int, error) { return syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	defer syscall.Close(file)
	data := make([]byte, most+1)
	have := 0
	for have < len(data) {
		n, err := retry(func() (int, error) { return syscall.Read(file, data[have:]) })
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			break
		}
		have += n
	}
	return data[:have], nil
}

// writePseudo is one write of all the data, and a close, which is when some kernels act.
func writePseudo(path string, data []byte) (int, error) {
	file, err := retry(func() (int, error) { return syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0) })
	if err != nil {
		return 0, err
	}
	n, err := retry(func() (int, error) { return syscall.Write(file, data) })
	if closed := syscall.Close(file); err == nil {
		err = closed
	}
	return n, err
}

// retry repeats a call that a signal interrupted; the Go runtime sends itself signals all the time.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
