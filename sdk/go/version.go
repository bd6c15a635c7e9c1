// SPDX-License-Identifier: Apache-2.0

package clf

// Version of this module; servers see it as the user agent.
const Version = "0.1.0"
