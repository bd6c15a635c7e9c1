// SPDX-License-Identifier: Apache-2.0

package clf

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cross-language-framework/clf-go/attest"
	"github.com/cross-language-framework/clf-go/internal/wire"
	"github.com/cross-language-framework/clf-go/problem"
)

// EnvironmentOwners is the variable in which `clf run` gives the list of owners that it made from the measured clf.toml.
const EnvironmentOwners = "CLF_OWNERS"

// Options are what Connect may be told.
type Options struct {
	// CA is the PEM of the owner's CA, CAFile a file that holds it. Under `clf run` leave both out.
	CA     []byte
	CAFile string
	// Identities are the owner's thumbprints that are believed: one, or two during a rotation. Under `clf run` leave them
	// out.
	Identities []string
	// Attester is where evidence comes from; nil finds it as attest.Detect does.
	Attester attest.Attester
	// Timeout is how long an operation goes on without progress; 0 means 60 seconds.
	Timeout time.Duration
	// Owners is the list of owners; "" takes the one that CLF_OWNERS names. Where it is given and CLF_OWNERS too, both
	// must be the same file.
	Owners string
}

// Connect gives an owner, by its name or URL; nothing is sent yet, and nil options will do.
//
// Under `clf run` the name or URL only selects one of the owners that the measured clf.toml lists, and may be left out
// where there is one: a host that passes another address, CA or identity is refused (OwnerUnlisted, ConfigInvalid),
// because only what is measured says whom the app trusts. Without a list, URL, CA and Identities are needed, and come
// from what is measured with the program: from its code, above all not from the environment.
func Connect(owner string, options *Options) (*Owner, error) {
	if options == nil {
		options = &Options{}
	}
	o := *options
	line, ca, err := o.find(owner)
	if err != nil {
		return nil, err
	}
	host, port, err := parseURL(line.URL)
	if err != nil {
		return nil, err
	}
	for _, identity := range o.Identities {
		if digest, err := wire.Unbase64url(identity, "identity"); err != nil || len(digest) != 32 {
			return nil, &problem.Error{
				Code: problem.ConfigInvalid, Message: wire.Shown(identity) + " is no identity",
				Remedy: "take it from `clf server check` of the owner",
			}
		}
	}
	l, err := newLink(host, port, ca)
	if err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Timeout < 0 {
		return nil, problem.New(problem.ConfigInvalid, "the timeout is negative")
	}
	if o.Attester == nil {
		if o.Attester, err = attest.Detect(attest.Standard()); err != nil {
			return nil, err
		}
	}
	name := line.Name
	if name == "" {
		name = host
	}
	return &Owner{name, l.base, &client{
		link: l, identities: slices.Clone(o.Identities), attester: o.Attester, timeout: o.Timeout,
		closing: map[chan struct{}]bool{},
	}}, nil
}

// find gives the owner's line and CA, and settles Identities.
func (o *Options) find(owner string) (line wire.OwnerLine, ca []byte, err error) {
	given := o.CA
	if o.CAFile != "" {
		if given, err = readConfig(o.CAFile); err != nil {
			return line, nil, err
		}
	}
	list, err := o.list()
	if err != nil {
		return line, nil, err
	}
	if list == "" {
		if owner == "" || len(given) == 0 || len(o.Identities) == 0 {
			return line, nil, &problem.Error{
				Code: problem.ConfigInvalid, Message: "URL, CA or identity is missing",
				Remedy: "without a list of owners, Connect takes a URL, CA and Identities",
			}
		}
		return wire.OwnerLine{URL: owner}, given, nil
	}
	if line, err = choose(list, owner); err != nil {
		return line, nil, err
	}
	if ca, err = readConfig(line.CA); err != nil {
		return line, nil, err
	}
	if given != nil && !bytes.Equal(given, ca) {
		return line, nil, notMeasured("the CA given for "+line.Name, "leave it out")
	}
	pinned := []string{line.Identity}
	if line.Next != "" {
		pinned = append(pinned, line.Next)
	}
	for _, identity := range o.Identities {
		if !slices.Contains(pinned, identity) {
			return line, nil, notMeasured("the identity "+wire.Shown(identity)+" given for "+line.Name, "leave it out")
		}
	}
	if len(o.Identities) == 0 {
		o.Identities = pinned
	}
	return line, ca, nil
}

func notMeasured(what, remedy string) error {
	return &problem.Error{
		Code: problem.ConfigInvalid, Message: what + " is not the one that clf.toml names and that is measured",
		Remedy: remedy,
	}
}

// list is the path of the list of owners, "" where there is none.
func (o *Options) list() (string, error) {
	measured := os.Getenv(EnvironmentOwners)
	if measured == "" || o.Owners == "" || o.Owners == measured {
		return max(o.Owners, measured), nil
	}
	return "", notMeasured("the list of owners "+wire.Shown(o.Owners), "leave Owners out")
}

// choose selects one of the listed owners by name or URL; "" selects the only one.
func choose(list, owner string) (wire.OwnerLine, error) {
	data, err := readConfig(list)
	if err != nil {
		return wire.OwnerLine{}, err
	}
	owners, err := wire.ParseOwners(data)
	if err != nil {
		return wire.OwnerLine{}, err
	}
	if owner == "" && len(owners) == 1 {
		return owners[0], nil
	}
	names := make([]string, len(owners))
	for i, line := range owners {
		if line.Name == owner {
			return line, nil
		}
		names[i] = line.Name
	}
	if strings.Contains(owner, "://") {
		host, port, err := parseURL(owner)
		if err != nil {
			return wire.OwnerLine{}, err
		}
		for _, line := range owners {
			if h, p, err := parseURL(line.URL); err == nil && h == host && p == port {
				return line, nil
			}
		}
	}
	return wire.OwnerLine{}, &problem.Error{
		Code: problem.OwnerUnlisted, Message: wire.Shown(owner) + " is not an owner that clf.toml lists",
		Remedy: "listed are: " + strings.Join(names, ", ") + "; only what is measured says whom the app trusts",
	}
}

func readConfig(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &problem.Error{Code: problem.ConfigInvalid, Message: wire.Shown(path) + " cannot be read", Cause: err}
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, configBytes+1))
	if err != nil {
		return nil, &problem.Error{Code: problem.ConfigInvalid, Message: wire.Shown(path) + " cannot be read", Cause: err}
	}
	if len(data) > configBytes {
		return nil, problem.New(problem.ConfigInvalid, fmt.Sprintf("%s is longer than %d bytes", wire.Shown(path), configBytes))
	}
	return data, nil
}
