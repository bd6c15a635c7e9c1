// SPDX-License-Identifier: Apache-2.0

// The Go client beside net/http: cases.py says what is asked and answered.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	clf "github.com/cross-language-framework/clf-go"
)

const pieceBytes = 1 << 20

var (
	url, caFile, identity, plain, path string
	size                               int64
	buffer                             = make([]byte, pieceBytes)
	digest                             string
)

// repeated reads the buffer again and again.
type repeated struct{ at int }

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, buffer[r.at:])
	r.at = (r.at + n) % pieceBytes
	return n, nil
}

func fill(w io.Writer) error {
	for at := int64(0); at < size; at += pieceBytes {
		if _, err := w.Write(buffer[:min(pieceBytes, size-at)]); err != nil {
			return err
		}
	}
	return nil
}

// drain reads into the one buffer, to the end.
func drain(r io.Reader) error {
	var done int64
	for {
		n, err := r.Read(buffer)
		done += int64(n)
		if err == io.EOF && done == size {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%d bytes of %d: %w", done, size, err)
		}
	}
}

func oursGet(string) error {
	owner, err := clf.Connect(url, &clf.Options{CAFile: caFile, Identities: []string{identity}})
	if err != nil {
		return err
	}
	defer owner.Close()
	reader, err := owner.Open(context.Background(), path)
	if err != nil {
		return err
	}
	defer reader.Close()
	return drain(reader)
}

func oursPut(name string) error {
	owner, err := clf.Connect(url, &clf.Options{CAFile: caFile, Identities: []string{identity}})
	if err != nil {
		return err
	}
	defer owner.Close()
	writer, err := owner.Create(context.Background(), name, nil)
	if err != nil {
		return err
	}
	defer writer.Abort()
	if err := fill(writer); err != nil {
		return err
	}
	_, err = writer.Commit(context.Background())
	return err
}

func exchange(method string, body io.Reader, take func(io.Reader) error) error {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequest(method, plain+"/file", body)
	if err != nil {
		return err
	}
	if body != nil {
		request.ContentLength = size
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return take(answer.Body)
}

func plainGet(string) error { return exchange("GET", nil, drain) }

func plainPut(string) error {
	return exchange("PUT", io.LimitReader(&repeated{}, size), func(r io.Reader) error {
		text, err := io.ReadAll(r)
		if err == nil && string(text) != digest {
			err = fmt.Errorf("another digest")
		}
		return err
	})
}

var sides = map[string]func(string) error{
	"ours get": oursGet, "ours put": oursPut, "plain get": plainGet, "plain put": plainPut,
}

func main() {
	a := os.Args[1:]
	url, caFile, identity, plain, path = a[0], a[1], a[2], a[3], a[4]
	var err error
	if size, err = strconv.ParseInt(a[5], 10, 64); err != nil {
		log.Fatal(err)
	}
	if _, err := rand.Read(buffer); err != nil {
		log.Fatal(err)
	}
	hash := sha256.New()
	if err := fill(hash); err != nil {
		log.Fatal(err)
	}
	digest = hex.EncodeToString(hash.Sum(nil))
	asked := bufio.NewScanner(os.Stdin)
	for asked.Scan() {
		words := strings.Fields(asked.Text())
		begin := time.Now()
		if err := sides[words[0]+" "+words[1]](words[2]); err != nil {
			log.Fatal(err)
		}
		line, _ := json.Marshal(map[string]float64{"seconds": time.Since(begin).Seconds()})
		fmt.Println(string(line))
	}
}
