// SPDX-License-Identifier: Apache-2.0

// Two owners, one answer: how many patients both have, and the sum of their ages. Each owner gets the same report.
package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"log"
	"slices"
	"strconv"

	clf "github.com/cross-language-framework/clf-go"
)

type sums struct {
	Patients int `json:"patients"`
	AgeSum   int `json:"age_sum"`
}

func main() {
	log.SetFlags(0)
	if err := run(context.Background(), "hospital-a", "hospital-b"); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, names ...string) error {
	var total sums
	var owners []*clf.Owner
	for _, name := range names {
		owner, err := clf.Connect(name, nil)
		if err != nil {
			return err
		}
		defer owner.Close()
		owners = append(owners, owner)
		if err := total.add(ctx, owner); err != nil {
			return err
		}
	}
	// What is written here leaves the enclave: sums, and nothing about a single patient.
	report, err := json.Marshal(total)
	if err != nil {
		return err
	}
	for _, owner := range owners {
		receipt, err := deliver(ctx, owner, append(report, '\n'))
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s, %d bytes, delivered\n", owner.Name(), receipt.Path, receipt.Size)
	}
	return nil
}

// add reads one owner's patients.
func (s *sums) add(ctx context.Context, owner *clf.Owner) error {
	file, err := owner.Open(ctx, "patients/2024.csv")
	if err != nil {
		return err
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("%s: no header", owner.Name())
	}
	age := slices.Index(rows[0], "age")
	if age < 0 {
		return fmt.Errorf("%s: no column age", owner.Name())
	}
	for _, row := range rows[1:] {
		years, err := strconv.Atoi(row[age])
		if err != nil {
			// Without the value: what fails in an enclave is shown outside of it.
			return fmt.Errorf("%s: an age is no number", owner.Name())
		}
		s.Patients++
		s.AgeSum += years
	}
	return nil
}

func deliver(ctx context.Context, owner *clf.Owner, report []byte) (*clf.Receipt, error) {
	result, err := owner.Create(ctx, "reports/go.json", nil)
	if err != nil {
		return nil, err
	}
	defer result.Close()
	if _, err := result.Write(report); err != nil {
		return nil, err
	}
	return result.Commit(ctx)
}
